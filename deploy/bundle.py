"""The code that hosts run, as one content-addressed bundle: pushed only where it is missing, and only what is missing.

`deploy.hostside.receive` is the far end. Which hosts, and how many at once, is the caller's business.
"""

from __future__ import annotations

import hashlib
import importlib.util
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from deploy import hostside
from deploy.errors import CommandFailed, HostError, InputError
from deploy.remote.retry import keep_trying

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from deploy.facts import Facts
    from deploy.remote.protocol import Remote

PACKAGES = ("flcommon", "flserver", "flclient")
STEP = "push"
TOLD, CHANGED = 3, 4
"""Exit statuses of `deploy.hostside.receive`: it says in one line what is wrong; an older bundle's file has changed."""
_PIECE_BYTES = 32 * 1024
_LEFT_OUT = ("__pycache__",)
_WORTH_PACKING_BYTES = 64 * 1024


class File(msgspec.Struct, frozen=True):
    """A file of a bundle: its name there (`flcommon/job.py`), its size in bytes and its content's SHA-256."""

    name: str
    size: int
    sha256: str


class Packed(msgspec.Struct, frozen=True):
    """Contents one after the other as they go over the wire: in the order of `contents`, and compressed or not."""

    contents: tuple[str, ...]
    packing: Literal["zlib", "none"]
    body: bytes


class Bundle(msgspec.Struct, frozen=True):
    """Files by their names, and their contents by their SHA-256. `digest` names it on the hosts.

    `whole` is what a host without any older bundle gets: packed once for all of them.
    """

    digest: str
    files: tuple[File, ...]
    contents: dict[str, bytes]
    whole: Packed

    def packed(self, missing: Collection[str]) -> Packed:
        """Return these of its contents as they go over the wire."""
        return self.whole if len(missing) == len(self.contents) else _pack(self.contents, missing)

    def pieces(self, packed: Packed) -> Iterator[bytes]:
        """Yield what a receiver reads, in pieces of one SSH packet."""
        sums = "".join(f"{sha256}\n" for sha256 in packed.contents)
        head = f"{len(self.files)} {len(packed.contents)} {packed.packing}\n"
        yield f"{head}{listed(self.files)}{sums}".encode()
        for start in range(0, len(packed.body), _PIECE_BYTES):
            yield packed.body[start : start + _PIECE_BYTES]


def make_bundle(trees: Mapping[str, Path] | None = None, files: Mapping[str, Path] | None = None) -> Bundle:
    """Pack directories, each under its name in the bundle; without any, the packages that hosts run; and more files.

    Equal names and contents give an equal digest, whatever their dates and permissions. Raises InputError for a file
    that cannot be read.
    """
    places = {
        f"{tree}/{path.relative_to(root).as_posix()}": path
        for tree, root in (package_trees(PACKAGES) if trees is None else trees).items()
        for path in _files(root)
    }
    found = sorted((name, _content(path)) for name, path in {**places, **(files or {})}.items())
    packed = tuple(File(name, len(content), hashlib.sha256(content).hexdigest()) for name, content in found)
    contents = {file.sha256: content for file, (_, content) in zip(packed, found, strict=True)}
    digest = hashlib.sha256(listed(packed).encode()).hexdigest()[:16]
    return Bundle(digest, packed, contents, _pack(contents, contents))


def package_trees(packages: Sequence[str]) -> dict[str, Path]:
    """Return where packages are installed here, without importing them."""
    return {package: _package_root(package) for package in packages}


def listed(files: Sequence[File]) -> str:
    """Return the list of a bundle's files as its host keeps it; its SHA-256 names the bundle."""
    return "".join(f"{file.sha256} {file.size} {file.name}\n" for file in files)


def push(remote: Remote, facts: Facts, bundle: Bundle) -> bool:
    """Put the bundle on a host unless it is there; True if anything was sent. Raises HostError.

    A host without bundles gets all in one round trip; one that has older ones is first asked what is missing.
    """
    if bundle.digest in facts.code:
        return False
    try:
        keep_trying(lambda: _push(remote, facts, bundle))
    except CommandFailed as error:
        if error.status != TOLD:
            raise
        raise HostError(remote.host, STEP, _last_line(error)) from error
    return True


def code_directory(facts: Facts, bundle: Bundle) -> str:
    """Return the bundle's directory on a host: immutable, shared by all runs."""
    return f"{facts.workdir}/code/{bundle.digest}"


def _push(remote: Remote, facts: Facts, bundle: Bundle) -> None:
    everything = set(bundle.contents)
    missing = _missing(remote, facts, bundle) if facts.code else everything
    try:
        _put(remote, facts, bundle, missing)
    except CommandFailed as error:
        if error.status != CHANGED:
            raise
        _put(remote, facts, bundle, everything)


def _missing(remote: Remote, facts: Facts, bundle: Bundle) -> set[str]:
    """Ask a host which contents none of its bundles holds."""
    sizes = "".join(f"{sha256} {len(content)}\n" for sha256, content in bundle.contents.items())
    argv = _argv(facts, "missing", f"{facts.workdir}/code")
    told = remote.read(argv, step=STEP, stdin=sizes.encode())
    missing = set(told.split())
    if not missing <= set(bundle.contents):
        raise HostError(remote.host, STEP, f"an answer that cannot be understood: {told[:80]!r}")
    return missing


def _put(remote: Remote, facts: Facts, bundle: Bundle, missing: Collection[str]) -> None:
    argv = _argv(facts, "take", code_directory(facts, bundle))
    remote.put(bundle.pieces(bundle.packed(missing)), argv, step=STEP)


def _argv(facts: Facts, *words: str) -> list[str]:
    return hostside.argv(facts.python, "receive", *words)


def _last_line(error: CommandFailed) -> str:
    return (error.output.strip().splitlines() or [f"exit status {error.status}"])[-1]


def _package_root(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(package)
    return Path(spec.submodule_search_locations[0])


def _files(root: Path) -> Iterator[Path]:
    return (path for path in root.rglob("*") if path.is_file() and not set(_LEFT_OUT) & set(path.parts))


def _content(path: Path) -> bytes:
    try:
        if "\n" in f"{path}":
            raise InputError(repr(f"{path}"), "a file name with a line break in it cannot be pushed")
        f"{path}".encode()
        return path.read_bytes()
    except UnicodeEncodeError as error:
        raise InputError(ascii(f"{path}"), "a file name that is not UTF-8 cannot be pushed") from error
    except OSError as error:
        raise InputError(path, f"cannot be read: {error.strerror}") from error


def _pack(contents: Mapping[str, bytes], wanted: Collection[str]) -> Packed:
    """Join contents, compressed (level 1, once for all hosts) if that makes a real difference."""
    order = tuple(sorted(wanted))
    plain = b"".join(contents[sha256] for sha256 in order)
    if len(plain) >= _WORTH_PACKING_BYTES:
        dense = zlib.compress(plain, level=1)
        if len(dense) < 0.9 * len(plain):
            return Packed(order, "zlib", dense)
    return Packed(order, "none", plain)
