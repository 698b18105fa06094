"""What processes take while they run, from /proc: CPU seconds over time, peak memory, threads.

A look costs some 40 µs a process. Peaks are the kernel's own high-water marks (VmHWM), so nothing between two looks is
missed but the last moments of a process.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
_FIRST_TIME, _TIMES = 11, 4
"""Where user and system time of a process and of its ended children stand in /proc/PID/stat, after its name."""


class Sampler:
    """What some processes have taken; `peak_mb` and `threads` (the most at any look) are by name."""

    def __init__(self) -> None:
        self.peak_mb: dict[str, float] = {}
        self.threads: dict[str, int] = {}
        self._cpu_s: dict[str, float] = {}
        self._looks: list[tuple[int, float]] = []

    def look(self, pids: Mapping[str, int]) -> None:
        """Take one sample; what a process that has ended took stays in the sum."""
        for name, pid in pids.items():
            with suppress(OSError):
                self._look(name, Path("/proc", str(pid)))
        self._looks.append((time.monotonic_ns(), sum(self._cpu_s.values())))

    def _look(self, name: str, proc: Path) -> None:
        fields = (proc / "stat").read_text().rpartition(")")[2].split()
        self._cpu_s[name] = sum(map(int, fields[_FIRST_TIME : _FIRST_TIME + _TIMES])) * _TICK_S
        status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines() if ":" in line)
        if "VmHWM" in status:  # not of a zombie
            self.peak_mb[name] = int(status["VmHWM"].split()[0]) * 1024 / 1e6
            self.threads[name] = max(self.threads.get(name, 0), int(status["Threads"]))

    def cpu_s(self, since_ns: int, until_ns: int) -> float:
        """Return the CPU seconds of all between two instants of the monotonic clock, interpolated between looks."""
        times, totals = zip(*self._looks, strict=True)
        before, after = np.interp([since_ns, until_ns], times, totals)
        return float(after - before)
