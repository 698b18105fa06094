"""Which exchanges tell of which process's clock: those of the gRPC stream, and the controller's over SSH.

A clock is that of one process of a client against that of one process of the server: after a reboot the monotonic clock
is another, and nothing else tells of it. Moments are differences from the process's first stamp in seconds: as such
they are exact to nanoseconds in a float, which a monotonic clock's own numbers are not for long.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from deploy.analysis.clocks.corridor import Bounds, Fit, fit
from deploy.analysis.clocks.wall import WallClock, wall_clock
from deploy.clockline import CLOCKS_FILE, ClockLine
from flcommon.events import ClientBack, ClientJoined
from flcommon.link import TOLERANCE, TOLERANCE_MS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import polars as pl
    from numpy.typing import NDArray

    from deploy.analysis.clocks.injected import Shaped
    from flcommon.events import AnyEvent, Stamp

    Told = Sequence[tuple[Stamp, AnyEvent]]
    Integers = NDArray[np.int64]
    Flags = NDArray[np.bool_]

SAME_BOOT_NS = 1_000_000_000
"""Two stamps whose wall and monotonic clock differ by as much are of one boot: a reboot makes minutes of it."""
AROUND_NS = 60_000_000_000
"""A process is there for a while before its first event and after its last."""

SLACK_NS = 10_000_000
"""A setting is stamped about when it came into force."""


@dataclass(frozen=True, eq=False)
class Process:
    """What one process of a host wrote; `number` counts a host's processes from 0, `index` all of a run's.

    `told` are the events that are kept as objects, `mono_ns` and `wall_ns` the stamps of all, at least one.
    """

    host: str
    number: int
    told: Told
    index: int
    mono_ns: Integers
    wall_ns: Integers

    @cached_property
    def first_ns(self) -> int:
        """The first moment of its monotonic clock that is known: where its time line begins."""
        return int(self.mono_ns.min())

    @cached_property
    def last_ns(self) -> int:
        """The last one."""
        return int(self.mono_ns.max())

    @cached_property
    def wall(self) -> WallClock:
        """Its time of day against its monotonic clock, by its own stamps."""
        return wall_clock(self.mono_ns, self.wall_ns)


@dataclass(frozen=True, eq=False)
class Exchanges:
    """The moments of exchanges over one stream, in nanoseconds: of the server's clock, the client's, and the server's.

    `idle` are those beside no message; `received_wall_ns` is the client's time of day when it received.
    """

    asked_ns: Integers
    received_ns: Integers
    received_wall_ns: Integers
    answered_ns: Integers
    back_ns: Integers
    idle: Flags

    def __len__(self) -> int:
        return len(self.asked_ns)

    def take(self, which: Flags) -> Exchanges:
        """Return those that are asked for."""
        return Exchanges(
            asked_ns=self.asked_ns[which],
            received_ns=self.received_ns[which],
            received_wall_ns=self.received_wall_ns[which],
            answered_ns=self.answered_ns[which],
            back_ns=self.back_ns[which],
            idle=self.idle[which],
        )


_NO_MOMENTS = np.empty(0, dtype=np.int64)
NO_EXCHANGES = Exchanges(_NO_MOMENTS, _NO_MOMENTS, _NO_MOMENTS, _NO_MOMENTS, _NO_MOMENTS, np.empty(0, dtype=np.bool_))


@dataclass(frozen=True, eq=False)
class Session:
    """What a server's process heard of a client between its joining, anew, and the next time it does."""

    client: str
    exchanges: Exchanges = NO_EXCHANGES


def sessions(server: Process, told: pl.DataFrame) -> dict[str, list[Session]]:
    """Return the exchanges that a server's process noted by client and client's process, in order; none is empty."""
    joined: dict[str, list[int]] = {}
    for stamp, event in server.told:
        if isinstance(event, ClientJoined) or (isinstance(event, ClientBack) and event.restarted):
            joined.setdefault(event.client, []).append(stamp.mono_ns)
    found = {}
    for (client,), frame in told.partition_by("client", as_dict=True, maintain_order=True).items():
        all_of_it = _exchanges(frame)
        number = np.searchsorted(np.sort(joined.get(client, [])), all_of_it.back_ns, side="right")
        found[client] = [Session(client, all_of_it.take(number == each)) for each in np.unique(number)]
    return found


def _exchanges(frame: pl.DataFrame) -> Exchanges:
    return Exchanges(
        asked_ns=frame["server_sent_mono_ns"].to_numpy(),
        received_ns=frame["client_received_mono_ns"].to_numpy(),
        received_wall_ns=frame["client_received_wall_ns"].to_numpy(),
        answered_ns=frame["client_sent_mono_ns"].to_numpy(),
        back_ns=frame["mono_ns"].to_numpy(),
        idle=frame["message"].is_null().to_numpy(),
    )


def process_of(session: Session, candidates: Sequence[Process]) -> Process | None:
    """Return the process whose stamps enclose most of a session's; None if there is none, as when a log is lost.

    `candidates`: those that are later than the process of the client's session before.
    """
    moments = session.exchanges.received_ns

    def enclosed(process: Process) -> int:
        return int(np.sum((process.first_ns <= moments) & (moments <= process.last_ns)))

    best = max(candidates, key=enclosed, default=None)
    return best if best and enclosed(best) else None


def grpc_bounds(session: Session, zero_ns: int, server_zero_ns: int, link: Shaped) -> Bounds:
    """Return what a session tells of the client's clock minus the server's, each counted from its own zero.

    What the client's link held back on purpose is no doubt about the clock: it is taken off the way it was on. As sure
    as a link is proved to be (`TOLERANCE`), each bound leaves room for.
    """
    told = session.exchanges
    trip_ns = (told.back_ns - told.asked_ns) - (told.answered_ns - told.received_ns) + SLACK_NS
    down = link.least_s(told.received_ns - trip_ns, told.received_ns, "down")
    up = link.least_s(told.answered_ns, told.answered_ns + trip_ns, "up")
    received, answered = ((moments - zero_ns) / 1e9 for moments in (told.received_ns, told.answered_ns))
    sent, back = ((moments - server_zero_ns) / 1e9 for moments in (told.asked_ns, told.back_ns))
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


@dataclass(frozen=True, eq=False)
class Controller:
    """The exchanges of one controller by host, and when it made the first."""

    zero_ns: int
    exchanges: dict[str, list[ClockLine]] = field(default_factory=dict)
    _servers: dict[int, Fit | None] = field(default_factory=dict)

    def of_process(self, process: Process) -> list[ClockLine]:
        """Return those that read the clocks which a process reads: same host, same boot, about the same time."""
        own = self.exchanges.get(process.host, [])
        first_ns, last_ns = process.first_ns - AROUND_NS, process.last_ns + AROUND_NS
        near = [each for each in own if first_ns < each.received_mono_ns < last_ns]
        if not near:
            return []
        order = np.argsort(process.mono_ns, kind="stable")
        places = np.searchsorted(process.mono_ns, [each.received_mono_ns for each in near], sorter=order)
        nearest = order[np.minimum(places, len(order) - 1)]
        boots = (process.wall_ns - process.mono_ns)[nearest].tolist()
        told = zip(near, boots, strict=True)
        return [each for each, boot in told if abs(each.received_wall_ns - each.received_mono_ns - boot) < SAME_BOOT_NS]

    def clock_of(self, server: Process) -> Fit | None:
        """Return what its exchanges with a server's process tell of that one's clock minus its own."""
        if server.index not in self._servers:
            found = self.of_process(server)
            self._servers[server.index] = fit(_of_server(found, self.zero_ns, server.first_ns)) if found else None
        return self._servers[server.index]


def by_controller(exchanges: Iterable[ClockLine]) -> list[Controller]:
    """Return the controllers: another one, or its reboot or sleep, shows in its own two clocks."""
    found: list[Controller] = []
    before = 0
    for each in exchanges:
        boot = each.sent_wall_ns - each.sent_mono_ns
        if not found or abs(boot - before) > SAME_BOOT_NS:
            found.append(Controller(each.sent_mono_ns))
        found[-1].exchanges.setdefault(each.host, []).append(each)
        before = boot
    return found


def ssh_bounds(controllers: Iterable[Controller], client: Process, server: Process) -> Bounds:
    """Return what the controllers' exchanges tell of the client's clock minus the server's, as `grpc_bounds` does.

    The controller's moment k is bounded on the server's clock by its exchanges with that, fitted like any other; when
    it sent, the client had not received, and when it had the answer, the client had sent it.
    """
    found = Bounds(*(np.empty(0) for _ in range(4)))
    for controller in controllers:
        with_client = controller.of_process(client)
        server_clock = controller.clock_of(server) if with_client else None
        if server_clock is None:
            continue
        sent, received, answered, back = _moments(with_client, controller.zero_ns, client.first_ns)
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
