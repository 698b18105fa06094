"""Whether a controller is there: what it shaped on people's machines does not outlive its word for long.

A file in a process's directory carries the moment of the controller's last word, by the monotonic clock that all
processes of a host share; or that the campaign was left running on purpose (`deploy up --detach`), which holds until
the campaign's end.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

CONTROL_FILE = "control"
LEASE_S = 45.0
"""For how long a word holds."""
RENEW_S = 10.0
"""How often a controller that is there says so."""
_LEFT = "left"


def renew(file: Path) -> None:
    """Say that a controller is there now."""
    _write(file, f"{time.monotonic_ns()}")


def leave(file: Path) -> None:
    """Say that the campaign goes on without a controller, on purpose."""
    _write(file, _LEFT)


def is_held(file: Path, lease_s: float = LEASE_S) -> bool:
    """Whether a controller is there, or nobody has to be."""
    with suppress(OSError, ValueError):
        said = file.read_text()
        return said == _LEFT or 0 <= time.monotonic_ns() - int(said) < lease_s * 1e9
    return False


def _write(file: Path, text: str) -> None:
    draft = file.with_name(f".{file.name}.{os.getpid()}")  # who starts the process writes too, at the same moment
    draft.write_text(text)
    draft.replace(file)
