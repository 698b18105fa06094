"""How this machine is doing, from Linux's /proc and /sys: without privileges, and without starting anything.

What the machine does not tell, or tells in words that nobody knows, is None: never an error. Elsewhere than on Linux
that is all but the load and this process's own use.
"""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from flcommon.events import HostSampled
from flcommon.interfaces import interfaces
from flcommon.kernelfiles import contents, signed, whole

if TYPE_CHECKING:
    from collections.abc import Iterator

_SENSORS = (
    ("thermal/thermal_zone*/type", "temp", rb"cpu|x86_pkg_temp"),
    ("hwmon/hwmon*/name", "temp1_input", rb"coretemp|k10temp|zenpower"),
    ("thermal/thermal_zone*/type", "temp", rb"soc|acpitz"),
)
"""Where in /sys/class a sensor's kind stands, where its value, and which kinds are a processor's: the surest first."""
_COLDEST_C, _HOTTEST_C = -60.0, 200.0
SHORTEST_S = 0.05
"""Shares of a shorter time are not told: processors' time is counted in ticks of 10 ms."""
_IDLE, _WAITING, _STOLEN = 3, 4, 7
_FEWEST, _KINDS = 4, 8
"""Kinds of ticks in /proc/stat: as Linux 2.4 had them, and without those of guests, which are counted twice."""


class Ticks(NamedTuple):
    """What all processors together have done since boot; zeros if that is not known."""

    busy: int = 0
    stolen: int = 0
    total: int = 0
    processors: int = 0


class _Moment(NamedTuple):
    """What has been used up to a moment, by everybody and by this process."""

    ticks: Ticks
    own_ns: int
    mono_ns: int


class Machine:
    """This machine, or one whose /proc and /sys are copied below `root`. What there is to read is looked for once."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._proc = root / "proc"
        system = root / "sys"
        self._clocks = list(_clocks(system / "devices/system/cpu/cpufreq"))
        self._thermometer = _thermometer(system / "class")
        # Of a Raspberry Pi. Where its kernel has no such file, vcgencmd has no way to ask either.
        self._throttled = next(iter(_found(system / "devices/platform", "soc*/soc*firmware/get_throttled")), None)
        self._before = self._moment()

    def sample(self) -> HostSampled:
        """Look; shares are those since the last look, or since the beginning."""
        before, after = self._before, self._moment()
        self._before = after
        spent_ns = after.mono_ns - before.mono_ns
        long_enough = spent_ns >= SHORTEST_S * 1e9
        total = long_enough * (after.ticks.total - before.ticks.total)
        processors = long_enough * (after.ticks.processors or os.cpu_count() or 1)
        return HostSampled(
            cpu_pct=_percent(after.ticks.busy - before.ticks.busy, total),
            own_cpu_pct=_percent(after.own_ns - before.own_ns, spent_ns * processors),
            steal_pct=_percent(after.ticks.stolen - before.ticks.stolen, total),
            load_1min=self._load(),
            memory_free_mb=available_mb(contents(self._proc / "meminfo")),
            frequency_mhz=self._frequency_mhz(),
            temperature_c=self._temperature_c(),
            throttled=bits(contents(self._throttled)) if self._throttled else None,
            interfaces=interfaces(self._proc / "net"),
        )

    def _moment(self) -> _Moment:
        return _Moment(ticks(contents(self._proc / "stat")), time.process_time_ns(), time.monotonic_ns())

    def _load(self) -> float | None:
        if sys.platform != "linux":
            return os.getloadavg()[0]
        return load(contents(self._proc / "loadavg"))

    def _frequency_mhz(self) -> float | None:
        """Return the mean over all processors: each clock is that of one or more."""
        khz = [(whole(contents(path)), processors) for path, processors in self._clocks]
        known = [(one, processors) for one, processors in khz if one]
        weight = sum(processors for _, processors in known)
        return round(sum(one * processors for one, processors in known) / weight / 1e3, 1) if known else None

    def _temperature_c(self) -> float | None:
        thousandths = signed(contents(self._thermometer)) if self._thermometer else None
        if thousandths is None or not _COLDEST_C <= thousandths / 1e3 <= _HOTTEST_C:
            return None
        return thousandths / 1e3


def ticks(stat: bytes) -> Ticks:
    """Return what /proc/stat (proc(5)) says. A processor that waits for a disk is idle."""
    first, _, rest = stat.partition(b"\n")
    label, *words = first.split() or [b""]
    told = [number for word in words[:_KINDS] if (number := whole(word)) is not None]
    if label != b"cpu" or len(told) < min(_KINDS, max(_FEWEST, len(words))):
        return Ticks()
    kinds = told + [0] * (_KINDS - len(told))
    total, stolen = sum(kinds), kinds[_STOLEN]
    busy = total - stolen - kinds[_IDLE] - kinds[_WAITING]
    return Ticks(busy, stolen, total, len(re.findall(rb"^cpu[0-9]", rest, re.MULTILINE)))


def load(loadavg: bytes) -> float | None:
    """Return the load of the last minute in /proc/loadavg (proc(5))."""
    found = re.match(rb"([0-9]{1,9}\.[0-9]{1,9}) ", loadavg)
    return float(found[1]) if found else None


def available_mb(meminfo: bytes) -> int | None:
    """Return what is there for a process without swapping (MemAvailable of proc(5)), in MiB."""
    found = re.search(rb"^MemAvailable:\s*([0-9]+) kB$", meminfo, re.MULTILINE)
    kb = whole(found[1]) if found else None
    return kb // 1024 if kb is not None else None


def bits(throttled: bytes) -> int | None:
    """Return the bits of a Raspberry Pi's firmware (vcgencmd get_throttled): hexadecimal, with 0x or without."""
    found = re.fullmatch(rb"(?:0x)?([0-9a-f]{1,8})\s*", throttled)
    return int(found[1], 16) if found else None


def _clocks(cpufreq: Path) -> Iterator[tuple[Path, int]]:
    """Yield the files that tell of clocks, and how many processors each is for."""
    for policy in _found(cpufreq, "policy*"):
        processors = len(contents(policy / "affected_cpus").split())
        yield policy / "scaling_cur_freq", max(1, processors)


def _thermometer(classes: Path) -> Path | None:
    """Return the file that tells a processor's temperature."""
    for kinds, value, wanted in _SENSORS:
        for path in _found(classes, kinds):
            if re.search(wanted, contents(path)):
                return path.with_name(value)
    return None


def _found(directory: Path, pattern: str) -> list[Path]:
    try:
        return sorted(directory.glob(pattern))
    except OSError:
        return []


def _percent(part: int, whole_: int) -> float | None:
    # Some of these counters go back by a tick now and then.
    return round(min(100.0, max(0.0, 100 * part / whole_)), 2) if whole_ > 0 else None
