"""What hosts need to make their environments, got ready on the controller once per kind of host: locks, uv, wheels.

Shared by the threads of all hosts of one command. A lock that was resolved once is used until it is told to be
refreshed: a study's last run has the versions of its first, and a second `up` needs no internet.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import platform
import shutil
import threading
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from deploy.environment.cache import Cache, default_root
from deploy.environment.lock import Lock, parse_lock
from deploy.environment.once import Once
from deploy.environment.requirements import requirements
from deploy.environment.tools import compile_command, download_command, run_tool, uv_program, wheels_of
from deploy.errors import DeployError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.app import App
    from deploy.environment.target import Target
    from deploy.store import BigFile


class Kit:
    """What one app needs on hosts; `refresh` resolves anew. All methods raise DeployError, and may take minutes."""

    def __init__(self, app: App, *, root: Path | None = None, refresh: bool = False) -> None:
        self.requirements = requirements(app)
        self.uv_version = importlib.metadata.version("uv")
        self._cache = Cache(default_root() if root is None else root)
        self._not_before = time.time() if refresh else 0.0
        self._locks: Once[Lock] = Once()
        self._files: Once[tuple[BigFile, ...]] = Once()
        self._resolving = threading.Lock()

    def lock(self, target: Target, *, cpu_torch: bool = False) -> Lock:
        """Return the lock for a kind of host."""
        return self._locks.get((target, cpu_torch), lambda: self._lock(target, cpu_torch=cpu_torch))

    def uv(self, target: Target) -> BigFile:
        """Return uv for a kind of host, gzip'ed: this machine's own, or out of the wheel of the same version."""
        key = f"uv-{self.uv_version}-{target.uv_platform}"
        (program,) = self._files.get(key, lambda: self._uv(target, key))
        return program

    def wheels(self, lock: Lock) -> tuple[BigFile, ...]:
        """Return all wheels of a lock."""

        def fetch(draft: Path) -> Iterator[Path]:
            file = draft / "lock.txt"
            file.write_text(lock.text)
            what = f"downloading wheels for {lock.target}"
            run_tool(download_command(lock.target, draft / "wheels", wheels_of(lock, file)), draft, what)
            return (draft / "wheels").iterdir()

        return self._files.get(lock.key, lambda: self._cache.fetched(f"wheels-{lock.key}", fetch))

    def _uv(self, target: Target, key: str) -> tuple[BigFile, ...]:
        def fetch(draft: Path) -> Iterator[Path]:
            packed = draft / "uv.gz"
            if (target.system, target.machine) == (platform.system(), platform.machine()):
                with Path(uv_program()).open("rb") as program:
                    yield _pack(program, packed)
                return
            argv = download_command(target, draft, [f"uv=={self.uv_version}"])
            run_tool(argv, draft, f"downloading uv {self.uv_version} for {target.system} {target.machine}")
            with _program("uv", next(draft.glob("*.whl"))) as program:
                yield _pack(program, packed)

        return self._cache.fetched(key, fetch)

    def _lock(self, target: Target, *, cpu_torch: bool) -> Lock:
        """Return the lock from the cache, or resolve it, one at a time: a later one follows an earlier one's pins."""
        name = f"{target.file_name}{'-cpu' if cpu_torch else ''}.txt"
        with self._resolving:
            place = self._family / name
            if not self._is_current(place):
                self._resolve(target, name, cpu_torch=cpu_torch)
            return parse_lock(target, place.read_text())

    def _resolve(self, target: Target, name: str, *, cpu_torch: bool) -> None:
        with self._cache.draft() as draft:
            wanted, lock = draft / "requirements.in", draft / name
            wanted.write_text("".join(f"{line}\n" for line in self.requirements))
            self._begin_with_pins_of_others(lock)
            argv = compile_command(target, wanted, lock, cpu_torch=cpu_torch)
            run_tool(argv, draft, f"finding packages for {target}")
            self._cache.keep(lock, *self._family.relative_to(self._cache.root).parts, name)

    def _begin_with_pins_of_others(self, lock: Path) -> None:
        """Begin a new lock with the pins of the latest one for another kind of host.

        Hosts then differ in no version without need: uv keeps to the pins that exist for this kind.
        """
        others = [path for path in self._family.glob("*.txt") if self._is_current(path)]
        if others:
            shutil.copyfile(max(others, key=lambda path: path.stat().st_mtime), lock)

    def _is_current(self, lock: Path) -> bool:
        return lock.is_file() and lock.stat().st_mtime >= self._not_before

    @property
    def _family(self) -> Path:
        """Where the locks of these requirements are: others if they change, or the version of uv that resolves them."""
        told = "\n".join((self.uv_version, *self.requirements))
        return self._cache.root / "locks" / hashlib.sha256(told.encode()).hexdigest()[:16]


@contextmanager
def _program(name: str, wheel: Path) -> Iterator[IO[bytes]]:
    """Open a program that a wheel brings."""
    with zipfile.ZipFile(wheel) as archive:
        inside = [it for it in archive.namelist() if it.endswith(f".data/scripts/{name}")]
        if len(inside) != 1:
            raise DeployError(f"{wheel.name} holds no program {name}")
        with archive.open(inside[0]) as program:
            yield program


def _pack(program: IO[bytes], place: Path) -> Path:
    """Compress a program: uv becomes less than half as long, which counts on Wi-Fi."""
    with place.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
        shutil.copyfileobj(program, packed, 1 << 20)
    return place
