"""What it costs to sample: one look at a connection, one at the machine, and a round with all its samples.

    python bench/sampling.py [--clients 3 30] [--pairs 10] [--looks 5000] [--every 1.0] [--markdown FILE]

Looks are timed in one process without other threads; CPU is that of this process. The rounds are those of real
processes on loopback: trials with samples and without take turns in the same processes, and the difference is taken
within each pair. Wanted: at most 1 % of a round, or 1 ms. Bytes are what samples add to all logs of a round.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import ours
from engine import machine
from engine_figures import markdown, met, spread
from processes import REPOSITORY, BenchmarkFailed, exit_status

from flcommon.eventlog import EventLog, now
from flcommon.events import AnyEvent, ComputeStarted, MessageSent, TcpSampled
from flcommon.machine import Machine
from flcommon.sampling import Sampler
from flcommon.sockets import Address, Sockets, address

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flcommon.job import ConfigValue

CNN_BYTES = 248_024
SHARE, ALLOWED_MS, COMPLETE = 0.01, 1.0, 0.99
ROUNDS = {3: 100, 30: 30}
"""How many rounds a trial has, so that one takes some seconds: a tick or two are in it."""
SWITCHED = ours.Engine(program=(str(REPOSITORY / "bench" / "unsampled.py"),))
CROWDS = (3, 30, 200)
EVENT = ComputeStarted(trial=3, round=17, message="3-51", client="pi4-a", kind="train")


def main() -> int:
    """Measure and print; return the exit status."""
    asked = _arguments().parse_args()
    parts = [machine(), looks(asked.looks, asked.every), rounds(asked.clients, asked.pairs)]
    print("\n\n".join(parts))
    if asked.markdown:
        asked.markdown.write_text("\n\n".join(parts))
    return 0


def looks(times: int, every_s: float) -> str:
    """Time single looks."""
    rows = [["one look", "median µs", "p99 µs", "CPU µs", f"of a core, one every {every_s:g} s"]]
    with ExitStack() as stack, tempfile.TemporaryDirectory(prefix="bench-") as place:
        peer = _crowd(1, stack)[0]
        sockets, looker = Sockets(), Machine()
        log = EventLog(Path(place) / "events.jsonl")
        stack.callback(log.close)
        sampler = Sampler(1.0, log, ("pi4-a",), lambda _client: peer)
        work: dict[str, Callable[[], object]] = {
            "at a connection": lambda: sockets.tcp(peer),
            "and written down with its event": lambda: sampler.beside(EVENT, now()),
            "that event alone": lambda: log.write(EVENT, now()),
            "at the machine": looker.sample,
            "and written down, all together": sampler._tick,  # noqa: SLF001 - what the sampler's thread does
        }
        for name, look in work.items():
            rows.append([name, *_timed(look, times, every_s)])
        for many in CROWDS:
            crowd = _crowd(many, stack)
            found = _timed(lambda peer=crowd[-1]: Sockets().tcp(peer), 50, every_s)
            rows.append([f"for a new connection among {many}", *found[:3], ""])
    return markdown(rows)


def _timed(look: Callable[[], object], times: int, every_s: float) -> list[str]:
    found = []
    cpu_s = time.process_time()
    for _ in range(times):
        began_ns = time.perf_counter_ns()
        look()
        found.append((time.perf_counter_ns() - began_ns) / 1e3)
    cpu_us = (time.process_time() - cpu_s) / times * 1e6
    p99 = sorted(found)[int(0.99 * (times - 1))]
    return [f"{statistics.median(found):.1f}", f"{p99:.1f}", f"{cpu_us:.1f}", f"{cpu_us / every_s / 1e4:.4f} %"]


def _crowd(many: int, stack: ExitStack) -> list[Address]:
    """Make so many connections and return their peers."""
    listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=many))
    peers = []
    for _ in range(many):
        far = stack.enter_context(socket.create_connection(listening.getsockname()))
        stack.enter_context(listening.accept()[0])
        if (peer := address(far.getsockname())) is not None:
            peers.append(peer)
    return peers


def rounds(crowds: Sequence[int], pairs: int) -> str:
    """Compare rounds with samples and without."""
    columns = ["on ms", "off ms", "difference ms", "of the mean, ms", "allowed ms", "", "samples", "kB"]
    rows = [["248 kB, sampled against not", "pairs of trials", *columns]]
    for clients in crowds:
        config: dict[str, ConfigValue] = {"payload-bytes": CNN_BYTES}
        length = ROUNDS.get(clients, max(10, 300 // clients))
        ran = ours.run(ours.Experiment(clients, length, 2 * pairs, run_config=config), SWITCHED)
        trials = ran.rounds_by_trial()
        medians = [statistics.median(trial) * 1e3 for trial in trials]
        means = [statistics.mean(trial) * 1e3 for trial in trials]
        differences = _differences(medians)
        off_ms = statistics.median(medians[1::2])
        allowed_ms = max(SHARE * off_ms, ALLOWED_MS)
        figures = [f"{statistics.median(medians[::2]):.2f}", f"{off_ms:.2f}", spread(differences)]
        figures += [spread(_differences(means)), f"{allowed_ms:.2f}", met(statistics.median(differences), allowed_ms)]
        samples, size = samples_a_round([event for _, event in ran.events], clients)
        rows.append([f"{clients} clients", f"{pairs} of {length} rounds", *figures, f"{samples}", f"{size / 1e3:.1f}"])
    return markdown(rows)


def _differences(by_trial: Sequence[float]) -> list[float]:
    return [on - off for on, off in zip(by_trial[::2], by_trial[1::2], strict=True)]


def samples_a_round(events: Sequence[AnyEvent], clients: int) -> tuple[int, float]:
    """Return how many samples stand beside a round's messages in all logs together, and their bytes.

    Clients write as many as the server. Raises BenchmarkFailed if messages went by without any: but for the last of a
    trial, which is sampled when the next may have begun.
    """
    sampled = [event for event in events if isinstance(event, TcpSampled) and event.message is not None]
    messages = {event.message for event in events if isinstance(event, MessageSent) and event.trial % 2 == 0}
    if not messages or len(sampled) < COMPLETE * 2 * len(messages):
        raise BenchmarkFailed(f"{len(sampled)} samples beside {len(messages)} messages")
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        path = Path(place) / "events.jsonl"
        log = EventLog(path)
        for event in sampled:
            log.write(event)
        log.close()
        return 4 * clients, 4 * clients * path.stat().st_size / len(sampled)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[3, 30])
    parser.add_argument("--pairs", type=int, default=10, help="pairs of trials, with samples and without")
    parser.add_argument("--looks", type=int, default=5000, help="looks that are timed")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between ticks, for the share of a core")
    parser.add_argument("--markdown", type=Path, help="also write the tables here")
    return parser


if __name__ == "__main__":
    sys.exit(exit_status(main))
