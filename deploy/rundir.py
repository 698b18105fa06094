"""The run directory `runs/<lab>/<playbook>-<UTC>/`: manifest.json, raw/<host>/, report/. Self-contained."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from deploy.errors import DeployError
from deploy.manifest import MANIFEST_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deploy.manifest import Manifest


class _Head(msgspec.Struct):
    campaign: str
    status: str


@dataclass(frozen=True)
class RunDirectory:
    """A run directory that exists."""

    path: Path

    @classmethod
    def of(cls, base: Path, manifest: Manifest) -> RunDirectory:
        """Return the directory of this campaign: a new one, or the one that its first controller has made.

        Raises DeployError if all of the campaign is recorded there already.
        """
        for file in sorted((base / manifest.lab).glob(f"*/{MANIFEST_FILE}")):
            with suppress(OSError, msgspec.MsgspecError):
                head = msgspec.json.decode(file.read_bytes(), type=_Head)
                if head.campaign == manifest.campaign and head.status != "running":
                    raise DeployError(f"nothing runs on the lab; its last campaign is recorded in {file.parent}")
                if head.campaign == manifest.campaign:
                    return cls(file.parent)
        at = datetime.strptime(manifest.created_utc, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        return cls.create(base, manifest.lab, manifest.playbook, at)

    @classmethod
    def create(cls, base: Path, lab: str, playbook: str, at: datetime) -> RunDirectory:
        """Make a new one; a second run within the same second gets a number behind its name. Raises DeployError."""
        stem = f"{playbook}-{at:%Y%m%dT%H%M%SZ}"
        number = 1
        while True:
            path = base / lab / (stem if number == 1 else f"{stem}-{number}")
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                number += 1
            except OSError as error:
                raise DeployError(f"{path}: the run directory cannot be made: {error.strerror}") from error
            else:
                return cls(path)

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Be the only one on this machine who writes here; raises DeployError if another `deploy` does."""
        directory = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise DeployError(f"{self.path}: another `deploy` on this machine records this campaign already") from error
        finally:
            os.close(directory)

    def raw(self, host: str) -> Path:
        """Return where a host's files are kept exactly as pulled."""
        return self.path / "raw" / host

    def write(self, manifest: Manifest) -> None:
        """Write the manifest, whole or not at all; raises DeployError."""
        draft = self.path / f".{MANIFEST_FILE}.part"
        try:
            draft.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
            draft.replace(self.path / MANIFEST_FILE)
        except OSError as error:
            raise DeployError(f"{self.path / MANIFEST_FILE}: cannot be written: {error.strerror}") from error
