"""The mount table of a process, as /proc/self/mountinfo has it (proc_pid_mountinfo(5))."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True)
class Mount:
    """One mounted file system: where, of which kind, and its own options."""

    point: Path
    kind: str
    options: tuple[str, ...]


def parse(mountinfo: str) -> list[Mount]:
    """Read a mount table; what is mounted later comes later."""
    found = []
    for line in mountinfo.splitlines():
        front, _, back = line.partition(" - ")
        kind, _, options = back.split(" ", 2)
        point = _ESCAPE.sub(lambda match: chr(int(match[1], 8)), front.split(" ")[4])
        found.append(Mount(Path(point), kind, tuple(options.split(","))))
    return found


def here() -> list[Mount]:
    """Return the mount table of this process."""
    return parse(Path("/proc/self/mountinfo").read_text(errors="surrogateescape"))
