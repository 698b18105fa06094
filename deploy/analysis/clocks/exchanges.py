"""Which exchanges tell of which process's clock: those of the gRPC stream, and the controller's over SSH.

A clock is that of one process of a client against that of one process of the server: after a reboot the monotonic clock
is another, and nothing else tells of it. Moments are differences from the process's first stamp in seconds: as such
they are exact to nanoseconds in a float, which a monotonic clock's own numbers are not for long.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from deploy.analysis.clocks.corridor import Bounds, fit
from deploy.clockline import CLOCKS_FILE, ClockLine
from flcommon.events import ClientBack, ClientJoined, ClockExchange
from flcommon.link import TOLERANCE, TOLERANCE_MS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from deploy.analysis.clocks.injected import Shaped
    from flcommon.events import AnyEvent, Stamp

    Told = Sequence[tuple[Stamp, AnyEvent]]

SAME_BOOT_NS = 1_000_000_000
"""Two stamps whose wall and monotonic clock differ by as much are of one boot: a reboot makes minutes of it."""
AROUND_NS = 60_000_000_000
"""A process is there for a while before its first event and after its last."""

SLACK_NS = 10_000_000
"""A setting is stamped about when it came into force."""


@dataclass(frozen=True)
class Process:
    """What one process of a host wrote; `number` counts a host's processes from 0."""

    host: str
    number: int
    told: Told

    @cached_property
    def first_ns(self) -> int:
        """The first moment of its monotonic clock that is known: where its time line begins."""
        return min(stamp.mono_ns for stamp, _ in self.told)

    @cached_property
    def last_ns(self) -> int:
        """The last one."""
        return max(stamp.mono_ns for stamp, _ in self.told)


@dataclass
class Session:
    """What a server's process heard of a client between its joining, anew, and the next time it does."""

    client: str
    exchanges: list[tuple[Stamp, ClockExchange]] = field(default_factory=list)


def sessions(told: Told) -> list[Session]:
    """Return the exchanges in a server process's log by client and client's process, in order; none is empty."""
    found: list[Session] = []
    now: dict[str, Session] = {}
    for stamp, event in told:
        match event:
            case ClientJoined() | ClientBack(restarted=True):
                now.pop(event.client, None)
            case ClockExchange():
                if event.client not in now:
                    now[event.client] = Session(event.client)
                    found.append(now[event.client])
                now[event.client].exchanges.append((stamp, event))
            case _:
                pass
    return found


def process_of(session: Session, candidates: Sequence[Process]) -> Process | None:
    """Return the process whose stamps enclose most of a session's; None if there is none, as when a log is lost.

    `candidates`: those that are later than the process of the client's session before.
    """

    def enclosed(process: Process) -> int:
        first, last = process.first_ns, process.last_ns
        return sum(first <= event.client_received_mono_ns <= last for _, event in session.exchanges)

    best = max(candidates, key=enclosed, default=None)
    return best if best and enclosed(best) else None


def grpc_bounds(session: Session, zero_ns: int, server_zero_ns: int, link: Shaped) -> Bounds:
    """Return what a session tells of the client's clock minus the server's, each counted from its own zero.

    What the client's link held back on purpose is no doubt about the clock: it is taken off the way it was on. As sure
    as a link is proved to be (`TOLERANCE`), each bound leaves room for.
    """
    rows, held = [], []
    for stamp, event in session.exchanges:
        rows.append(
            (
                event.client_received_mono_ns - zero_ns,
                event.server_sent_mono_ns - server_zero_ns,
                event.client_sent_mono_ns - zero_ns,
                stamp.mono_ns - server_zero_ns,
            )
        )
        at_client_ns = event.client_sent_mono_ns - event.client_received_mono_ns
        trip_ns = stamp.mono_ns - event.server_sent_mono_ns - at_client_ns + SLACK_NS
        received_ns, sent_ns = event.client_received_mono_ns, event.client_sent_mono_ns
        held.append(
            (
                link.least_s(received_ns - trip_ns, received_ns, "down"),
                link.least_s(sent_ns, sent_ns + trip_ns, "up"),
            )
        )
    received, sent, answered, back = np.array(rows, dtype=np.int64).reshape(-1, 4).T / 1e9
    down, up = np.array(held, dtype=np.float64).reshape(-1, 2).T
    # The same room on both sides, or the middle would lean to one.
    room = np.where(down + up > 0, np.maximum(TOLERANCE_MS / 1000, TOLERANCE * np.maximum(down, up)), 0.0)
    return Bounds(received, received - sent - down + room, answered, answered - back + up - room)


def read_ssh(run: Path) -> tuple[list[ClockLine], str | None]:
    """Read the controller's exchanges, if it made any; also a sentence about lines that cannot be used."""
    try:
        lines = (run / CLOCKS_FILE).read_bytes().splitlines()
    except FileNotFoundError:
        return [], None
    except OSError as error:
        return [], f"{CLOCKS_FILE} cannot be read: {error.strerror}"
    decoder = msgspec.json.Decoder(ClockLine)
    found, unusable = [], 0
    for line in lines:
        try:
            found.append(decoder.decode(line))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            unusable += 1
    return found, f"{CLOCKS_FILE}: {unusable} of {len(lines)} lines cannot be used" if unusable else None


def by_controller(exchanges: Iterable[ClockLine]) -> list[list[ClockLine]]:
    """Return the exchanges of each controller: another one, or its reboot or sleep, shows in its own two clocks."""
    found: list[list[ClockLine]] = []
    before = 0
    for each in exchanges:
        boot = each.sent_wall_ns - each.sent_mono_ns
        if not found or abs(boot - before) > SAME_BOOT_NS:
            found.append([])
        found[-1].append(each)
        before = boot
    return found


def of_process(exchanges: Iterable[ClockLine], process: Process) -> list[ClockLine]:
    """Return the exchanges that read the clocks which a process reads: same host, same boot, about the same time."""
    stamps = sorted((stamp.mono_ns, stamp.wall_ns - stamp.mono_ns) for stamp, _ in process.told)
    moments = [mono_ns for mono_ns, _ in stamps]
    found = []
    for each in exchanges:
        if each.host == process.host and moments[0] - AROUND_NS < each.received_mono_ns < moments[-1] + AROUND_NS:
            nearest = min(bisect_left(moments, each.received_mono_ns), len(stamps) - 1)
            boot = each.received_wall_ns - each.received_mono_ns
            if abs(boot - stamps[nearest][1]) < SAME_BOOT_NS:
                found.append(each)
    return found


def ssh_bounds(controllers: Iterable[Sequence[ClockLine]], client: Process, server: Process) -> Bounds:
    """Return what the controllers' exchanges tell of the client's clock minus the server's, as `grpc_bounds` does.

    The controller's moment k is bounded on the server's clock by its exchanges with that, fitted like any other; when
    it sent, the client had not received, and when it had the answer, the client had sent it.
    """
    found = Bounds(*(np.empty(0) for _ in range(4)))
    for exchanges in controllers:
        with_client, with_server = of_process(exchanges, client), of_process(exchanges, server)
        if not with_client or not with_server:
            continue
        zero_ns = exchanges[0].sent_mono_ns
        server_clock = fit(_of_server(with_server, zero_ns, server.first_ns))
        if server_clock is None:
            continue
        sent, received, answered, back = _moments(with_client, zero_ns, client.first_ns)
        low, high = sent + server_clock.limits(sent)[0], back + server_clock.limits(back)[1]
        found += Bounds(received, received - low, answered, answered - high)
    return found


def _of_server(exchanges: Sequence[ClockLine], zero_ns: int, server_zero_ns: int) -> Bounds:
    """Return bounds of the server's clock minus the controller's, at moments of the controller.

    When it sent, the server's clock stood at no more than what it received at; back at it, at no less than it answered.
    """
    sent, received, answered, back = _moments(exchanges, zero_ns, server_zero_ns)
    return Bounds(sent, received - sent, back, answered - back)


def _moments(exchanges: Sequence[ClockLine], zero_ns: int, host_zero_ns: int) -> NDArray[np.float64]:
    """Return rows of sent, received, answered and back, in seconds since the controller's zero and the host's."""
    rows = [
        (
            each.sent_mono_ns - zero_ns,
            each.received_mono_ns - host_zero_ns,
            each.answered_mono_ns - host_zero_ns,
            each.back_mono_ns - zero_ns,
        )
        for each in exchanges
    ]
    return np.asarray(np.array(rows, dtype=np.int64).T / 1e9)
