"""The run directory `runs/<lab>/<playbook>-<UTC>/`: manifest.json, raw/<host>/, report/. Self-contained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from deploy.errors import DeployError
from deploy.manifest import MANIFEST_FILE

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from deploy.manifest import Manifest


@dataclass(frozen=True)
class RunDirectory:
    """A run directory that exists."""

    path: Path

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
