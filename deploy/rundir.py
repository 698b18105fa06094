"""The run directory `runs/<lab>/<playbook>-<UTC>/`: manifest.json, raw/<host>/, report/. Self-contained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from deploy.manifest import Manifest

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class RunDirectory:
    """A run directory that exists."""

    path: Path

    @classmethod
    def create(cls, base: Path, lab: str, playbook: str, at: datetime) -> RunDirectory:
        """Make a new one; a second run within the same second gets a number behind its name."""
        stem = f"{playbook}-{at:%Y%m%dT%H%M%SZ}"
        number = 1
        while True:
            path = base / lab / (stem if number == 1 else f"{stem}-{number}")
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                number += 1
            else:
                return cls(path)

    def raw(self, host: str) -> Path:
        """Return where a host's files are kept exactly as pulled."""
        return self.path / "raw" / host

    def write(self, manifest: Manifest) -> None:
        """Write the manifest, whole or not at all."""
        draft = self.path / f".{MANIFEST}.part"
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
        draft.replace(self.path / MANIFEST)
