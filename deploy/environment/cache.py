"""The controller's own files that outlive a command: `$XDG_CACHE_HOME/fieldlab`, else `~/.cache/fieldlab`.

`files/<sha256>/<name>` holds what hosts are sent, `sets/<key>.json` says which of them belong together, and `locks/`
what was resolved. Several commands may use it at once: all is made beside its place and renamed. It may be deleted.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from deploy.errors import DeployError
from deploy.store import BigFile, big_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


class _Entry(msgspec.Struct, frozen=True):
    sha256: str
    name: str
    size: int


_entries = msgspec.json.Decoder(tuple[_Entry, ...])


def default_root() -> Path:
    """Return where this user's cache is."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "fieldlab"


class Cache:
    """The cache below a directory, which is made when it is first used."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def fetched(self, key: str, fetch: Callable[[Path], Iterable[Path]]) -> tuple[BigFile, ...]:
        """Return the set of files that is known by a key; `fetch` puts them into a directory if they are not here.

        Raises DeployError if the cache cannot be written.
        """
        found = self._known(key)
        if found is None:
            with self.draft() as draft:
                found = tuple(sorted((self._kept(path) for path in fetch(draft)), key=lambda file: file.name))
                entries = [_Entry(file.sha256, file.name, file.size) for file in found]
                (draft / "set.json").write_bytes(msgspec.json.encode(entries))
                self._moved(draft / "set.json", self._set(key))
        return found

    @contextmanager
    def draft(self) -> Iterator[Path]:
        """Make a directory for what is being made, and remove it afterwards; raises DeployError."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".draft-", dir=self.root) as directory:
                yield Path(directory)
        except OSError as error:
            raise DeployError(f"the cache {self.root} cannot be written: {error.strerror or error}") from error

    def keep(self, draft: Path, *place: str) -> None:
        """Move a file that was made in a draft to its place."""
        self._moved(draft, self.root.joinpath(*place))

    def _set(self, key: str) -> Path:
        return self.root / "sets" / f"{key}.json"

    def _known(self, key: str) -> tuple[BigFile, ...] | None:
        """Return a set if all of its files are here, as long as they should be."""
        try:
            entries = _entries.decode(self._set(key).read_bytes())
            found = tuple(BigFile(self._file(it.sha256, it.name), it.sha256, it.size) for it in entries)
            return found if all(file.path.stat().st_size == file.size for file in found) else None
        except (OSError, msgspec.MsgspecError):
            return None

    def _kept(self, path: Path) -> BigFile:
        file = big_file(path)
        place = self._file(file.sha256, file.name)
        self._moved(path, place)
        return BigFile(place, file.sha256, file.size)

    def _file(self, sha256: str, name: str) -> Path:
        return self.root / "files" / sha256 / name

    def _moved(self, draft: Path, place: Path) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        draft.replace(place)
