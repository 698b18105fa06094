"""What the timing log costs: one `EventLog.write`, and all that a round writes beside the round's own time.

    python bench/events.py [--clients 3] [--bytes 248024] [--writes 20000] [--rounds 200]

The claim is that a write costs less than 20 µs; the exit status is 1 if its median does not. A round's writes are
those on its critical path: the server's all, and one client's, for clients write at the same time as each other. They
are timed in one process without other threads; the round is one of real processes with all their logs (`engine.py`).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import ours
from engine import machine
from engine_figures import markdown
from outcome import Work
from processes import exit_status

from flcommon.eventlog import EventLog
from flcommon.events import (
    ComputeEnded,
    ComputeStarted,
    Event,
    MessageReceived,
    MessageSent,
    Place,
    ReplyReceived,
    ReplySent,
    RoundEnded,
    RoundStarted,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

CLAIM_US = 20.0
PLACE = Place(trial=3, round=17, message="3-51", client="pi4-a", kind="train")
SENT = {"size_bytes": 248_500, "wire_bytes": 248_612, "encode_s": 0.000_052, "queue_s": 0.000_021, "send_s": 0.000_3}
RECEIVED = {"size_bytes": 248_500, "wire_bytes": 248_612, "receive_s": 0.000_512, "decode_s": 0.000_082}
SERVER_MESSAGE = (
    MessageSent(**PLACE, **SENT),
    ReplyReceived(**PLACE, **RECEIVED),
)
SERVER_ROUND = (RoundEnded(trial=3, round=17, duration_s=0.006_543), RoundStarted(trial=3, round=18))
CLIENT_MESSAGE = (
    MessageReceived(**PLACE, **RECEIVED, queue_s=0.000_021),
    ComputeStarted(**PLACE),
    ComputeEnded(**PLACE, cpu_s=0.000_123),
    ReplySent(**PLACE, **SENT),
)
"""What a round without an injected delay writes; lengths are typical, the values mean nothing."""


def main() -> int:
    """Measure and print; return the exit status."""
    asked = _arguments().parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        log = EventLog(Path(place) / "events.jsonl")
        one = time_writes(log, [SERVER_MESSAGE[0]], asked.writes)
        whole = time_writes(log, round_events(asked.clients), max(1, asked.writes // 10))
        log.close()
        rounds = ours.run(ours.payload(Work(asked.clients, asked.bytes, asked.rounds, ours.WARMUP_ROUNDS))).outcome
    median_us = statistics.median(one)
    round_us = rounds.median_s * 1e6
    print(writes_table(one, whole, asked.clients, round_us))
    holds = median_us < CLAIM_US
    print(f"A write costs less than {CLAIM_US:g} µs: {'yes' if holds else 'no'} ({median_us:.1f} µs)")
    return 0 if holds else 1


def round_events(clients: int) -> list[Event]:
    """Return the events on the critical path of one round."""
    return [*SERVER_ROUND, *(SERVER_MESSAGE * clients), *CLIENT_MESSAGE]


def time_writes(log: EventLog, events: Sequence[Event], times: int) -> list[float]:
    """Return, sorted, the microseconds that writing all these events took, each of so many times."""
    found: list[float] = []
    for _ in range(times):
        started = time.perf_counter_ns()
        for event in events:
            log.write(event)
        found.append((time.perf_counter_ns() - started) / 1e3)
    return sorted(found)


def writes_table(one: Sequence[float], whole: Sequence[float], clients: int, round_us: float) -> str:
    """Show both costs, and what they are of a round."""
    table = [["timing log", "events", "median µs", "p99 µs", "of the round"]]
    rows = {"one write": (1, one), f"a round of {clients} clients": (len(round_events(clients)), whole)}
    for what, (events, times) in rows.items():
        median = statistics.median(times)
        p99 = times[int(0.99 * (len(times) - 1))]
        table.append([what, str(events), f"{median:.1f}", f"{p99:.1f}", f"{median / round_us:.2%}"])
    table.append(["the round itself", "", f"{round_us:.0f}", "", "100%"])
    return markdown(table)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--bytes", type=int, default=248_024, help="payload to each client and back")
    parser.add_argument("--writes", type=int, default=20_000, help="writes that are timed")
    parser.add_argument("--rounds", type=int, default=200, help="rounds that are timed")
    return parser


if __name__ == "__main__":
    sys.exit(exit_status(main))
