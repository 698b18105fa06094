"""Tells one process from every other that has had its pid, on this host, before or after a reboot.

Standard library only, and cheap to import: `deploy.hostside.look` takes this module's text to hosts that have no code
of ours, so that the rule exists once. Runs on Python 3.7 or later.
"""

from __future__ import annotations

import os

_BOOT_ID = "/proc/sys/kernel/random/boot_id"


def start_time(pid: int) -> str | None:
    """Return when a living process started, in the words of its system; None if there is none (or a zombie).

    On Linux: the kernel's boot id and the ticks since that boot, as ticks alone may come again after a reboot.
    """
    if not os.path.exists("/proc/self/stat"):  # noqa: PTH110 - pathlib costs a look 10 ms
        return _told_by_ps(pid)
    stat = _text(f"/proc/{pid}/stat")
    state, *fields = stat.rpartition(")")[2].split() or ["X"]
    # proc(5): field 22 is the start time in ticks since boot; the rest begins with field 3.
    return None if state in "ZX" else f"{_text(_BOOT_ID).strip()} {fields[18]}".lstrip()


def lives(pid: int, started: str) -> bool:
    """Whether the process that `start_time` was once asked about still runs, and is no other with the same pid."""
    return start_time(pid) == started


def _text(path: str) -> str:
    """Return what a file of /proc holds; nothing if it is gone, or hidden from us."""
    try:
        with open(path, errors="replace") as file:  # noqa: PTH123 - as above
            return file.read()
    except OSError:
        return ""


def _told_by_ps(pid: int) -> str | None:
    import subprocess  # noqa: PLC0415 - 15 ms that Linux need not pay

    told = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return told.stdout.strip() or None
