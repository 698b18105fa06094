"""Runs a command and writes what it took as one JSON object: wall and CPU seconds, peak memory, exit status.

    python bench/measure.py RESULT COMMAND...

CPU counts the command and all that it started, also what it left behind (OpenSSH's shared connections): this process
adopts, ends and counts it. The wall time ends when the command does. Peak memory is that of the largest process.
SIGTERM ends it all.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_GRACE_S = 5.0


def main() -> int:
    """Measure one command; return its exit status."""
    result, *command = sys.argv[1:]
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    started = time.perf_counter()
    first = os.posix_spawnp(command[0], command, os.environ, setpgroup=0)
    signal.signal(signal.SIGTERM, lambda _signal, _frame: _end(first))
    statuses: dict[int, int] = {}
    cpu_s, peak_kb, wall_s = 0.0, 0, 0.0
    deadline = float("inf")
    while True:
        if first in statuses:
            for pid in _children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM if time.monotonic() < deadline else signal.SIGKILL)
        try:
            pid, status, used = os.wait4(-1, 0)
        except ChildProcessError:
            break
        if pid == first:
            wall_s = time.perf_counter() - started
            deadline = time.monotonic() + _GRACE_S
        statuses[pid] = os.waitstatus_to_exitcode(status)
        cpu_s += used.ru_utime + used.ru_stime
        peak_kb = max(peak_kb, used.ru_maxrss)
    Path(result).write_text(
        json.dumps({"wall_s": wall_s, "cpu_s": cpu_s, "peak_mb": peak_kb / 1024, "status": statuses[first]})
    )
    return statuses[first]


def _end(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGTERM)


def _children() -> list[int]:
    """Return the processes whose parent is this one now."""
    return [int(pid) for pid in Path("/proc/self/task", str(os.getpid()), "children").read_text().split()]


if __name__ == "__main__":
    sys.exit(main())
