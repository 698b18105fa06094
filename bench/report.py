"""What a report's data set costs: from raw logs to dataset.parquet and the tables beside it.

    python bench/report.py [--events 1 3 10] [--clients 1000] [--place DIRECTORY] [--keep]

The logs are made for this, and not counted: 1,000 clients, ten events for each client and round, with clock exchanges,
samples of TCP, an injected delay and, here and there, a torn line. The claim is that 10 million events take less than
60 s and 4 GB on two cores, and that the cost is linear: an event is at most a quarter dearer than among 1 million.
The exit status is 1 if one does not hold. Memory is that of all processes together, looked at every 50 ms.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil
from engine import machine
from engine_figures import markdown
from report_logs import EVENTS, Scale, write_run

if TYPE_CHECKING:
    from collections.abc import Sequence

CLAIM_S, CLAIM_GB, CLAIM_RATIO = 60.0, 4.0, 1.25
MILLION = 1_000_000
LOOK_S = 0.05
TABLES = """
import sys, time
from pathlib import Path
started = time.perf_counter()
from deploy.analysis.export.write import write_tables
from deploy.analysis.reading.dataset import read_dataset
from deploy.analysis.statistics.conditions import analyse
run = Path(sys.argv[1])
dataset = read_dataset(run)
read = time.perf_counter()
analysis = analyse(dataset)
analysed = time.perf_counter()
write_tables(run, analysis)
print(read - started, analysed - read, time.perf_counter() - analysed)
"""


class Cost(NamedTuple):
    """What one run took: seconds whole and in parts, and the peak of memory."""

    events: int
    whole_s: float
    parts_s: tuple[float, ...]
    peak_gb: float

    @property
    def us_per_event(self) -> float:
        """What one event costs."""
        return 1e6 * self.whole_s / self.events


def main() -> int:
    """Measure and print; return the exit status."""
    asked = _arguments().parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(prefix="bench-", dir=asked.place) as place:
        costs = [measured(Path(place), Scale(asked.clients, round(each * MILLION))) for each in asked.events]
    print(table(costs))
    largest, ratio = costs[-1], costs[-1].us_per_event / costs[0].us_per_event
    holds = largest.whole_s < CLAIM_S and largest.peak_gb < CLAIM_GB and ratio < CLAIM_RATIO
    print(
        f"{largest.events / MILLION:g} M events in less than {CLAIM_S:g} s and {CLAIM_GB:g} GB, an event at most"
        f" {CLAIM_RATIO:g} times as dear as among {costs[0].events / MILLION:g} M: {'yes' if holds else 'no'}"
        f" ({largest.whole_s:.1f} s, {largest.peak_gb:.2f} GB, {ratio:.2f} times)"
    )
    return 0 if holds else 1


def measured(place: Path, scale: Scale) -> Cost:
    """Make logs, and measure a process that makes tables of them."""
    run = place / f"{scale.events}"
    events = write_run(run, scale)
    started = time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", TABLES, str(run)], stdout=subprocess.PIPE, text=True) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, _memory(process.pid))
            time.sleep(LOOK_S)
        took_s = time.perf_counter() - started
        parts = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise SystemExit(process.returncode)
    return Cost(events, took_s, tuple(map(float, parts.split())), peak / 1e9)


def _memory(pid: int) -> int:
    """Return the resident memory of a process and its children in bytes."""
    found = 0
    try:
        parent = psutil.Process(pid)
        for each in (parent, *parent.children(recursive=True)):
            found += each.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return found


def table(costs: Sequence[Cost]) -> str:
    """Show all costs, and what an event costs against the first."""
    rows = [["events", "seconds", "read", "analyse", "write", "events/s", "µs an event", "ratio", "peak memory, GB"]]
    for cost in costs:
        parts = [f"{part:.1f}" for part in cost.parts_s]
        ratio = cost.us_per_event / costs[0].us_per_event
        rate = f"{cost.events / cost.whole_s:,.0f}"
        rows.append(
            [f"{cost.events:,}", f"{cost.whole_s:.1f}", *parts, rate, f"{cost.us_per_event:.2f}", f"{ratio:.2f}",
             f"{cost.peak_gb:.2f}"]
        )  # fmt: skip
    return markdown(rows)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--events", type=float, nargs="+", default=[1, 3, 10], help="millions of events")
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--place", type=Path, help=f"where the logs go: {EVENTS} bytes an event")
    return parser


if __name__ == "__main__":
    sys.exit(main())
