"""What it costs the controller to compare clocks with many hosts over SSH: CPU and bytes per exchange, round trips.

    python bench/conversations.py [--hosts 50] [--exchanges 60]

Real OpenSSH servers on loopback, all spoken to at once, in the pace of a burst. CPU is this process's alone; bytes are
what TCP carried on each connection, in both directions. Hosts share this machine's cores, so that round trips are upper
bounds.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import socket
import statistics
import struct
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import fanout_hosts
from fanout_ours import Plan

from deploy.clockline import CLOCKS_FILE, ClockLine
from deploy.clocks import Book, Conversation
from deploy.facts import look
from deploy.pulse import Pace
from deploy.remote.fanout import connect_all, fan_out
from deploy.remote.ssh import connect
from deploy.worker import Worker
from flcommon.lease import RENEW_S

if TYPE_CHECKING:
    from collections.abc import Iterable

    from deploy.remote.protocol import Remote

REPOSITORY = Path(__file__).parents[1]
_BYTES_ACKED = 120
"""Where TCP_INFO has what was sent and acknowledged, and after it what was received, 8 bytes each."""


class Counted(Book):
    """A book that knows when enough is in it."""

    def __init__(self, path: Path, enough: int) -> None:
        super().__init__(path, print)
        self.lines: list[ClockLine] = []
        self._enough, self.full = enough, threading.Event()

    def add(self, line: ClockLine) -> None:
        """Take one exchange."""
        super().add(line)
        self.lines.append(line)
        if len(self.lines) >= self._enough:
            self.full.set()


def main() -> None:
    """Measure, and print a line per figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=50)
    parser.add_argument("--exchanges", type=int, default=60)
    wanted = parser.parse_args()
    with fanout_hosts.hosts(wanted.hosts) as lab:
        out = lab.place / "out"
        out.mkdir()
        plan = Plan(
            stations=lab.stations,
            user=getpass.getuser(),
            identity_file=str(lab.key),
            known_hosts=str(lab.known_hosts),
            python=sys.executable,
            tree=str(lab.tree),
            out=str(out),
            logs=(),
        )
        with connect_all(plan.hosts().values(), connect) as remotes:
            measure(plan, remotes, wanted.exchanges)


def measure(plan: Plan, remotes: dict[str, Remote], exchanges: int) -> None:
    """Talk to all hosts, first until all answer, then for so many exchanges each."""
    hosts = plan.hosts()
    facts = fan_out(remotes, lambda remote: look(hosts[remote.host], remote))
    started, book = (Counted(Path(plan.out, CLOCKS_FILE), len(hosts) * count) for count in (5, exchanges))
    warm, pace = Pace(burst=5, renew_s=600.0), Pace(burst=exchanges)
    for kept, rhythm in ((started, warm), (book, pace)):
        workers = [Worker(remote, facts[name], "flclient", str(REPOSITORY), "c") for name, remote in remotes.items()]
        talks = [Conversation(worker, kept, rhythm) for worker in workers]
        before, cpu_s, since_s = sum(map(carried, remotes.values())), time.process_time(), time.monotonic()
        for talk in talks:
            talk.begin()
        kept.full.wait(120)
        cpu_s, wall_s = time.process_time() - cpu_s, time.monotonic() - since_s
        carried_bytes, count = sum(map(carried, remotes.values())) - before, len(kept.lines)
        for talk in talks:
            talk.end(leave=False)
        for talk in talks:
            talk.join(20)
    print(f"{count} exchanges in {wall_s:.1f} s, with what it takes to begin them")
    show(len(hosts), book.lines, cpu_s / count, carried_bytes / count)


def show(hosts: int, lines: Iterable[ClockLine], cpu_s: float, carried_bytes: float) -> None:
    """Print the figures; what begins a conversation is in them."""
    best = {}
    for line in lines:
        rtt_ms = (line.back_mono_ns - line.sent_mono_ns - line.answered_mono_ns + line.received_mono_ns) / 1e6
        best[line.host] = min(rtt_ms, best.get(line.host, rtt_ms))
    print(f"controller: {cpu_s * 1e3:.2f} ms of CPU per exchange")
    often_s = 0.75 * RENEW_S  # by chance, between half of it and all
    print(f"between bursts, {hosts} hosts every {often_s:g} s: {cpu_s * hosts / often_s * 100:.2f} % of a core")
    print(f"{carried_bytes:.0f} bytes per exchange, both directions, without TCP's headers")
    middle, worst = statistics.median(best.values()), max(best.values())
    print(f"round trip, best of each host: median {middle:.2f}, worst {worst:.2f} ms")


def carried(remote: Remote) -> int:
    """Return what the kernel has carried on a host's connection."""
    sock = remote._link._transport.sock  # type: ignore[attr-defined]  # noqa: SLF001 - nobody else needs to know
    acknowledged, received = struct.unpack_from(
        "QQ", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192), _BYTES_ACKED
    )
    return int(acknowledged + received)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
