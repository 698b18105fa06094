"""Round trips of an idle connection: clock exchanges beside no message, with what was injected then; no common clock.

An exchange is one small frame each way: on a link with a rate it tells of what queues there, and not of the network.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from deploy.analysis.clocks.injected import Injected
from flcommon.events import ClockExchange, RoundStarted, TrialEnded

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from deploy.analysis.clocks.clock import ClientProcess
    from deploy.analysis.clocks.exchanges import Process
    from deploy.analysis.clocks.injected import Shaped
    from flcommon.events import Stamp


class IdleTrip(msgspec.Struct, frozen=True, kw_only=True):
    """A round trip of `rtt_s`, of which `injected_s` was injected (None: not known); `trial` None: between trials."""

    client: str
    trial: int | None
    control: bool
    rtt_s: float
    injected_s: float | None

    @property
    def natural_s(self) -> float | None:
        """What the network took by itself."""
        return None if self.injected_s is None else self.rtt_s - self.injected_s


@dataclass(frozen=True)
class _Rounds:
    """Which round it was, by the server's monotonic clock: (trial, control), None between trials."""

    starts_ns: list[int]
    places: list[tuple[int, bool] | None]

    def at(self, mono_ns: int) -> tuple[int, bool] | None:
        place = bisect_right(self.starts_ns, mono_ns)
        return self.places[place - 1] if place else None


def _rounds(server: Process) -> _Rounds:
    found: list[tuple[int, tuple[int, bool] | None]] = []
    for stamp, event in server.told:
        if isinstance(event, RoundStarted):
            found.append((stamp.mono_ns, (event.trial, event.control)))
        elif isinstance(event, TrialEnded):
            found.append((stamp.mono_ns, None))
    found.sort(key=lambda each: each[0])
    return _Rounds([at for at, _ in found], [place for _, place in found])


def idle_trips(clients: Sequence[ClientProcess]) -> Iterator[IdleTrip]:
    """Yield the idle round trips of every client process, but for those in which the link changed or was taken off."""
    rounds = {id(each.server): _rounds(each.server) for each in clients}
    for each in clients:
        for stamp, event in each.exchanges:
            if event.message is None and not _unsteady(each.link, event):
                yield _trip(stamp, event, each.link, rounds[id(each.server)].at(event.server_sent_mono_ns))


def _unsteady(link: Shaped, event: ClockExchange) -> bool:
    start_ns, end_ns = event.client_received_mono_ns, event.client_sent_mono_ns
    return link.lifted(start_ns, end_ns) or any(link.changes(start_ns, end_ns, way) for way in ("down", "up"))


def _trip(stamp: Stamp, event: ClockExchange, link: Shaped, place: tuple[int, bool] | None) -> IdleTrip:
    ways = [link.at(event.client_received_mono_ns, way) for way in ("down", "up")]
    known = [way or Injected() for way in ways]
    there_and_back_ns = stamp.mono_ns - event.server_sent_mono_ns
    at_client_ns = event.client_sent_mono_ns - event.client_received_mono_ns
    return IdleTrip(
        client=event.client,
        trial=place[0] if place else None,
        control=place[1] if place else False,
        rtt_s=(there_and_back_ns - at_client_ns) / 1e9,
        # At a rate, it waits behind whatever else is on its way.
        injected_s=None
        if any(way.lossy or way.rate_mbit for way in known)
        else sum(way.delay_ms for way in known) / 1000,
    )
