"""What our engine costs, beside Flower's own: one round of sending bytes to all clients and back.

    python bench/engine.py [--quick] [--clients 3 30] [--mb 0.248 4 100] [--turns 3] [--plain] [--also CHECKOUT]
    python bench/engine.py --superlink    also Flower's SuperLink and SuperNodes, which poll: 3 clients, 248 kB
    python bench/engine.py --many         200 clients of ours, 20 rounds
    python bench/engine.py --events       our timing log on against off
    python bench/engine.py --large        one client, one array of 300 MB and of 2.2 GB: speed and memory
    python bench/engine.py --boundary [cifar10]    from the end of one trial to the first instruction of the next

Each takes `--markdown FILE`. The engines take turns (A B C A B C …), so that a slow minute of the machine hits all of
them; a ratio is the median of the ratios within one turn, with its extremes. Real processes, loopback gRPC; the first
rounds of each process are left out. Our round lasts until the next one starts, that of `start_server` from
`configure_fit` to the end of `aggregate_fit`: the difference is against us. CPU is that of server and clients together.

The yardstick is `start_server` as it comes, with clients that return the bytes unread, as ours do. A `NumPyClient`,
which is what users of it write, converts them each way. glibc's allocator is told what ours is told in one variant.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import engine_modes
import ours
import start_server
from engine_figures import HEADER, Turns, bars, cell_rows, markdown
from outcome import Outcome, Work
from processes import BenchmarkFailed, exit_status

from flcommon.process import ALLOCATOR

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

YARDSTICK = "start_server"
VARIANTS: dict[str, tuple[str, Mapping[str, str] | None]] = {
    "start_server, NumPyClient": ("numpy", None),
    "start_server, our allocator": ("unread", ALLOCATOR),
}
CLIENTS, MEGABYTES = (3, 30), (0.248024, 4.0, 100.0)
"""0.248 MB is the CNN of `flclient.apps.cifar10`."""
TURNS = 3
_VOLUME_MB, _MOST_ROUNDS, _MOST_WARMUP = 900, 200, 20
_HEAVY_MB, _LIGHT_MB = 1000, 15
"""So many MB a round, all clients together: above the first left out by --quick, above the second no variants."""
_FEW = 10
"""Starting more clients than this takes longer than what is measured: one turn less."""


@dataclass(frozen=True)
class Cell:
    """One group of rows of the table."""

    clients: int
    megabytes: float

    @property
    def volume_mb(self) -> float:
        """What goes to all clients in one round."""
        return self.clients * self.megabytes

    @property
    def work(self) -> Work:
        """As many rounds as take a few seconds."""
        rounds = min(_MOST_ROUNDS, max(2, int(_VOLUME_MB / self.volume_mb)))
        return Work(self.clients, round(self.megabytes * 1e6), rounds, max(1, min(_MOST_WARMUP, rounds // 4)))

    @property
    def heavy(self) -> bool:
        """Whether a single run takes minutes."""
        return self.volume_mb > _HEAVY_MB


def main() -> int:
    """Measure and print; return the exit status."""
    asked = _arguments().parse_args()
    print(f"{machine()}\n", flush=True)
    text = [machine() + "\n"]
    for part in _mode(asked)():
        print(part, flush=True)
        text.append(part)
    if asked.markdown:
        asked.markdown.write_text("\n".join(text))
    return 0


def _mode(asked: argparse.Namespace) -> Callable[[], Sequence[str]]:
    modes = {
        asked.superlink: partial(engine_modes.superlink, asked.rounds or 12),
        asked.many: partial(engine_modes.many, asked.rounds or 20),
        asked.events: partial(engine_modes.events, asked.turns or 10),
        asked.large: partial(engine_modes.large, asked.mb or (300.0, 2200.0), tls=asked.tls),
        asked.boundary: partial(engine_modes.boundaries, asked.boundary),
    }
    return modes.get(True) or (modes[asked.boundary] if asked.boundary else partial(table, asked))


def machine() -> str:
    """Return one line on what was measured on."""
    versions = " · ".join(f"{name} {importlib.metadata.version(name)}" for name in ("flwr", "grpcio"))
    load = os.getloadavg()[0]
    return f"{_cpu()} · {os.cpu_count()} cores, load {load:.1f} · Python {platform.python_version()} · {versions}"


def table(asked: argparse.Namespace) -> list[str]:
    """Return the table of all cells, and which bars are met."""
    found: dict[Cell, dict[str, Turns]] = {}
    cells = [Cell(clients, mb) for clients in asked.clients or CLIENTS for mb in asked.mb or MEGABYTES]
    for cell in cells:
        if asked.quick and cell.heavy:
            continue
        turns = 1 if asked.quick else asked.turns or TURNS - (cell.clients > _FEW)
        print(f"  {cell.clients} clients, {cell.megabytes:g} MB …", file=sys.stderr, flush=True)
        runs = engines(cell, asked.also, tls=not asked.plain)
        if cell.volume_mb <= _LIGHT_MB and not asked.quick:
            runs |= {name: partial(start_server.run, cell.work, *how) for name, how in VARIANTS.items()}
        found[cell] = measure(runs, turns)
    rows = [HEADER, *(row for cell, turns in found.items() for row in cell_rows(cell.work, turns, YARDSTICK))]
    wanted = [(f"{cell.clients} clients, {cell.megabytes:.3g} MB", cell.megabytes, found[cell]) for cell in found]
    return [markdown(rows), bars(wanted, YARDSTICK)]


def engines(cell: Cell, also: Path | None, *, tls: bool) -> dict[str, Callable[[], Outcome]]:
    """Return what takes turns: a name, and a function that runs once."""
    work = cell.work
    found: dict[str, Callable[[], Outcome]] = {
        "ours": partial(_ours, work, ours.PLAIN),
        **({"ours, TLS": partial(_ours, work, ours.WITH_TLS)} if tls else {}),
        YARDSTICK: partial(start_server.run, work, "unread"),
    }
    if also is not None:
        found[f"ours, {also.name}"] = partial(_ours, work, ours.Engine(also.resolve()))
    return found


def _ours(work: Work, engine: ours.Engine) -> Outcome:
    return ours.run(ours.payload(work), engine).outcome


def measure(runs: Mapping[str, Callable[[], Outcome]], turns: int) -> dict[str, Turns]:
    """Let the engines take turns; a peer that does not get through once, as for want of memory, is left out."""
    found: dict[str, Turns] = {name: [] for name in runs}
    for _ in range(turns):
        for name, once in runs.items():
            if name not in found:
                continue
            try:
                found[name].append(once())
            except BenchmarkFailed as error:
                if not name.startswith(YARDSTICK):
                    raise
                print(f"  {name} did not get through: {error}", file=sys.stderr, flush=True)
                del found[name]
    return found


def _cpu() -> str:
    """Return the processor's name as Linux knows it; elsewhere what Python knows."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--superlink", action="store_true", help="also Flower's SuperLink engine")
    mode.add_argument("--many", action="store_true", help="200 clients of ours")
    mode.add_argument("--events", action="store_true", help="the timing log on against off")
    mode.add_argument("--large", action="store_true", help="one client and large arrays: speed and memory")
    mode.add_argument("--boundary", nargs="?", const="payload", choices=("payload", "cifar10"), help="between trials")
    parser.add_argument(
        "--quick", action="store_true", help="one turn, without what takes minutes and without variants"
    )
    parser.add_argument("--clients", type=int, nargs="+", help="of the table")
    parser.add_argument("--mb", type=float, nargs="+", help="payload to each client and back, of the table or --large")
    parser.add_argument(
        "--turns", type=int, help=f"how often each engine runs ({TURNS}); of --events, pairs of trials (10)"
    )
    parser.add_argument("--rounds", type=int, help="of --superlink, --many")
    parser.add_argument("--plain", action="store_true", help="the table without TLS")
    parser.add_argument("--tls", action="store_true", help="--large with TLS")
    parser.add_argument("--also", type=Path, metavar="CHECKOUT", help="a second checkout whose engine is measured")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there too")
    return parser


if __name__ == "__main__":
    sys.exit(exit_status(main))
