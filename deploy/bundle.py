"""The code that hosts run, as one content-addressed bundle, pushed only where it is missing."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from deploy import hostside

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from deploy.facts import Facts
    from deploy.remote.protocol import Remote

PACKAGES = ("flcommon", "flserver", "flclient")
STEP = "push"
_PIECE_BYTES = 32 * 1024
_LEFT_OUT = ("__pycache__",)


class Bundle(msgspec.Struct, frozen=True):
    """A gzip'ed tar and its two digests: of what is in it (its name on the hosts), and of its bytes."""

    digest: str
    archive: bytes
    archive_sha256: str
    files: int

    def pieces(self) -> Iterator[bytes]:
        """Yield the archive in pieces of one SSH packet."""
        for start in range(0, len(self.archive), _PIECE_BYTES):
            yield self.archive[start : start + _PIECE_BYTES]


def make_bundle(packages: Sequence[str] = PACKAGES) -> Bundle:
    """Pack the packages as they are installed here; equal content gives an equal digest, whatever its dates."""
    files = sorted((name, path.read_bytes()) for package in packages for name, path in _files(package))
    digest = hashlib.sha256()
    for name, content in files:
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    archive = _pack(files)
    return Bundle(digest.hexdigest()[:16], archive, hashlib.sha256(archive).hexdigest(), len(files))


def push(remote: Remote, facts: Facts, bundle: Bundle) -> bool:
    """Put the bundle on a host unless it is there; True if it was sent. Raises HostError."""
    if bundle.digest in facts.code:
        return False
    argv = [facts.python, "-c", hostside.source("receive"), code_directory(facts, bundle), bundle.archive_sha256]
    remote.put(bundle.pieces(), argv, step=STEP)
    return True


def code_directory(facts: Facts, bundle: Bundle) -> str:
    """Return the bundle's directory on a host: immutable, shared by all runs."""
    return f"{facts.workdir}/code/{bundle.digest}"


def _files(package: str) -> Iterator[tuple[str, Path]]:
    """Yield (name in the bundle, path) of every file of a package, without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(package)
    root = Path(spec.submodule_search_locations[0])
    for path in root.rglob("*"):
        if path.is_file() and not set(_LEFT_OUT) & set(path.parts):
            yield f"{package}/{path.relative_to(root).as_posix()}", path


def _pack(files: Sequence[tuple[str, bytes]]) -> bytes:
    """Return a tar that depends on names and contents alone; level 1: the link is rarely the bottleneck."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for name, content in files:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return gzip.compress(raw.getvalue(), compresslevel=1, mtime=0)
