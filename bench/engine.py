"""What our engine costs, beside Flower's own `start_server`: one round of sending bytes to all clients and back.

    python bench/engine.py [--clients 3] [--bytes 248024] [--rounds 200] [--repeats 3] [--app cifar10] [--also CHECKOUT]

The engines take turns (A B C A B C …), so that a slow minute of the machine hits all of them; a ratio is the median of
the ratios within one turn, with its extremes. Real processes, loopback gRPC; the first rounds of each process are left
out. Our round lasts until the next one starts, that of `start_server` from `configure_fit` to the end of
`aggregate_fit`: the difference is against us.

Also the trial boundary: from the end of one trial to the first instruction of the next, for the payload app, and with
`--app cifar10` for the PyTorch app. `--also` measures the engine of a second checkout in the same turns.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import statistics
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import ours
import start_server
from processes import REPOSITORY, Fleet, exit_status
from rich.console import Console
from rich.table import Table

from flcommon.process import ALLOCATOR

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flcommon.job import ConfigValue

YARDSTICK = "start_server, NumPyClient"
BOUNDARY_TRIALS = 10
BOUNDARY_ROUNDS = 2
CIFAR10: dict[str, ConfigValue] = {"data.set": "digits", "data.partition": "full", "subset": 64, "threads": 1}

console = Console(width=None if Console().is_terminal else 120, highlight=False)


@dataclass(frozen=True)
class Work:
    """How much of it: `rounds` of `size_bytes` to each client and back, in each of `repeats` turns."""

    clients: int
    size_bytes: int
    rounds: int
    repeats: int


Turns = list[list[float]]
"""Round times in seconds, one list for each turn."""


def main() -> int:
    """Measure and print; return the exit status."""
    asked = _arguments().parse_args()
    work = Work(asked.clients, asked.bytes, asked.rounds, asked.repeats)
    console.print(machine())
    with console.status("measuring"):
        turns = measure(engines(work, asked.also), work.repeats)
        boundaries = measure_boundaries(work, asked.app)
    console.print(rounds_table(work, turns))
    console.print(boundary_table(work, boundaries))
    return 0


def machine() -> str:
    """Return one line on what was measured on."""
    versions = " · ".join(f"{name} {importlib.metadata.version(name)}" for name in ("flwr", "grpcio"))
    load = os.getloadavg()[0]
    return f"{_cpu()} · {os.cpu_count()} cores, load {load:.1f} · Python {platform.python_version()} · {versions}"


def engines(work: Work, also: Path | None) -> dict[str, Callable[[], list[float]]]:
    """Return what takes turns: a name, and a function that runs once and returns its round times."""
    found: dict[str, Callable[[], list[float]]] = {
        "ours": partial(run_ours, work, REPOSITORY),
        YARDSTICK: partial(run_start_server, work, "numpy"),
        "start_server, bytes unread": partial(run_start_server, work, "unread"),
        "start_server, unread, our allocator": partial(run_start_server, work, "unread", ALLOCATOR),
    }
    if also is not None:
        found[f"ours, {also}"] = partial(run_ours, work, also.resolve())
    return found


def run_ours(work: Work, code: Path) -> list[float]:
    """Run our engine once."""
    return ours.round_times_s(ours.run(ours.payload(work.clients, work.size_bytes, work.rounds), code))


def run_start_server(work: Work, kind: str, allocator: Mapping[str, str] | None = None) -> list[float]:
    """Run Flower's once."""
    rounds = ours.WARMUP_ROUNDS + work.rounds
    with tempfile.TemporaryDirectory(prefix="bench-") as place, Fleet(allocator=allocator) as fleet:
        times = start_server.run(fleet, Path(place), (work.clients, work.size_bytes, rounds), kind)
    return times[ours.WARMUP_ROUNDS :]


def measure(runs: Mapping[str, Callable[[], list[float]]], repeats: int) -> dict[str, Turns]:
    """Let the engines take turns."""
    turns: dict[str, Turns] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, once in runs.items():
            turns[name].append(once())
    return turns


def measure_boundaries(work: Work, app: str) -> dict[str, list[float]]:
    """Return the seconds between trials of the payload app, and of the PyTorch app if it is asked for."""
    experiments = {"payload": ours.payload(work.clients, work.size_bytes, BOUNDARY_ROUNDS, BOUNDARY_TRIALS)}
    if app == "cifar10":
        experiments[app] = ours.Experiment(
            work.clients, BOUNDARY_ROUNDS, BOUNDARY_TRIALS, BOUNDARY_ROUNDS, "flclient.apps.cifar10", CIFAR10
        )
    return {name: ours.boundaries_s(ours.run(experiment)) for name, experiment in experiments.items()}


def rounds_table(work: Work, turns: Mapping[str, Turns]) -> Table:
    """Show the round times, and their ratios to the yardstick's."""
    columns = ["engine", "clients", "bytes", "rounds", "median ms", "p95 ms", "min ms", "ratio to start_server"]
    table = table_of("One round", columns)
    for name, mine in turns.items():
        pooled = sorted(one * 1e3 for turn in mine for one in turn)
        times = [statistics.median(pooled), pooled[int(0.95 * (len(pooled) - 1))], pooled[0]]
        counts = [str(work.clients), f"{work.size_bytes:,}", f"{work.repeats} x {work.rounds}"]
        table.add_row(name, *counts, *(f"{one:.2f}" for one in times), ratio(mine, turns[YARDSTICK]))
    return table


def ratio(mine: Turns, yardstick: Turns) -> str:
    """Return the median of the ratios within one turn, with the extremes."""
    ratios = sorted(
        statistics.median(one) / statistics.median(other) for one, other in zip(mine, yardstick, strict=True)
    )
    return f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def boundary_table(work: Work, boundaries: Mapping[str, Sequence[float]]) -> Table:
    """Show the times between trials."""
    table = table_of("Trial boundary of our engine", ["app", "clients", "boundaries", "median ms", "max ms"])
    for app, found in boundaries.items():
        times = [statistics.median(found) * 1e3, max(found) * 1e3]
        table.add_row(app, str(work.clients), str(len(found)), *(f"{one:.1f}" for one in times))
    return table


def table_of(title: str, columns: Sequence[str]) -> Table:
    """Return an empty table; all columns but the first hold numbers."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _cpu() -> str:
    """Return the processor's name as Linux knows it; elsewhere what Python knows."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--bytes", type=int, default=248_024, help="payload to each client and back")
    parser.add_argument("--rounds", type=int, default=200, help="rounds of each engine in each turn")
    parser.add_argument("--repeats", type=int, default=3, help="turns")
    parser.add_argument("--app", choices=("payload", "cifar10"), default="payload", help="app of the trial boundary")
    parser.add_argument("--also", type=Path, metavar="CHECKOUT", help="a second checkout whose engine is measured")
    return parser


if __name__ == "__main__":
    sys.exit(exit_status(main))
