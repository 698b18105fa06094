"""What the network did by itself and what was injected, by client and condition, control rounds apart.

Times of messages are those of training, for all of these are of one size. A median's interval is of the spread; what
the clocks do not know shifts all of a client's one-way times alike, and stands beside it as `uncertainty_ms`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import msgspec

from deploy.analysis.reading.messages import UNFIT
from deploy.analysis.statistics.interval import Interval, interval
from flcommon.events import LinkLifted, LinkProved, LinkReady, Probed, is_training

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from deploy.analysis.clocks.clock import ClientProcess
    from deploy.analysis.clocks.idle import IdleTrip
    from deploy.analysis.clocks.injected import Direction
    from deploy.analysis.reading.messages import MessageRow
    from deploy.manifest import Manifest, PlannedTrial
    from flcommon.events import AnyEvent


class WayFound(msgspec.Struct, frozen=True, kw_only=True):
    """One direction: natural time, and the injected delay as requested, as applied and as measured; None: not known.

    `measured_ms` is from the proof after applying (`link-proved`), or what the layer held (`held_ms`). `transfer_ms` is
    with all that was injected, `goodput_mbit` and `retransmitted` (segments) too. `overflowed` packets were lost
    because a queue of the layer was full: they belong to no measurement.
    """

    natural_ms: Interval | None = None
    transfer_ms: Interval | None = None
    uncertainty_ms: float | None = None
    requested_ms: float | None = None
    applied_ms: float | None = None
    measured_ms: float | None = None
    rate_mbit: float | None = None
    goodput_mbit: float | None = None
    retransmitted: int | None = None
    overflowed: int | None = None


class NetworkRow(msgspec.Struct, frozen=True, kw_only=True):
    """One client in one condition, or in all of them (None); `control`: only its control rounds, else only the others.

    `natural_rtt_ms` is of idle exchanges. Of `messages` in both directions `flagged` are in no natural time.
    """

    client: str
    condition: int | None
    control: bool
    layer: str | None
    messages: int
    flagged: dict[str, int]
    natural_rtt_ms: Interval | None
    down: WayFound
    up: WayFound


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """An active look at an idle path, before the first trial or after the last."""

    stage: str
    rtt_ms: Interval | None
    rtt_min_ms: float | None
    up_mbit: float | None
    down_mbit: float | None


class ClientNetwork(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a client's network in the whole run; `about` is the shaping layer's own word."""

    whole: NetworkRow
    probes: tuple[Probe, ...]
    about: dict[str, str]


class Network(msgspec.Struct, frozen=True, kw_only=True):
    """A run's network: each client as a whole, and by condition; `linked`: the plan injects links."""

    clients: tuple[ClientNetwork, ...] = ()
    rows: tuple[NetworkRow, ...] = ()
    linked: bool = False


def network(
    manifest: Manifest, clients: Sequence[ClientProcess], messages: Sequence[MessageRow], idle: Sequence[IdleTrip]
) -> Network:
    """Sum up a run by client and condition; the warm-up counts as none."""
    plans = {trial.index: trial for trial in manifest.trials}
    told: defaultdict[str, list[AnyEvent]] = defaultdict(list)
    for each in clients:
        told[each.process.host] += [event for _, event in each.process.told]
    training = [row for row in messages if is_training(row.kind) and row.trial in plans]
    return Network(
        clients=tuple(_client(name, told[name], training, idle) for name in manifest.clients),
        rows=tuple(row for name in manifest.clients for row in _rows(name, plans, told[name], (training, idle))),
        linked=any(trial.links for trial in manifest.trials),
    )


@dataclass(frozen=True)
class _Group:
    """What is summed up in a row."""

    client: str
    messages: Sequence[MessageRow]
    idle: Sequence[IdleTrip]
    condition: int | None = None
    control: bool = False
    proofs: Sequence[LinkProved] = ()

    def row(self) -> NetworkRow:
        flags = Counter(flag for row in self.messages for flag in row.flags)
        layers = [row.layer for row in self.messages if row.layer] + [proof.layer for proof in self.proofs]
        return NetworkRow(
            client=self.client,
            condition=self.condition,
            control=self.control,
            layer=layers[0] if layers else None,
            messages=len(self.messages),
            flagged=dict(flags),
            natural_rtt_ms=interval(1000 * trip.natural_s for trip in self.idle if trip.natural_s is not None),
            down=_way(
                "down", self.messages, [ms for proof in self.proofs if (ms := proof.measured_down_ms) is not None]
            ),
            up=_way("up", self.messages, [ms for proof in self.proofs if (ms := proof.measured_up_ms) is not None]),
        )


def _client(
    name: str, told: Sequence[AnyEvent], messages: Iterable[MessageRow], idle: Iterable[IdleTrip]
) -> ClientNetwork:
    trips = [trip for trip in idle if trip.client == name]
    undisturbed = [trip for trip in trips if trip.injected_s == 0.0]
    return ClientNetwork(
        whole=_Group(name, [row for row in messages if row.client == name], undisturbed or trips).row(),
        probes=tuple(_probe(event) for event in told if isinstance(event, Probed)),
        about=next((event.about for event in told if isinstance(event, LinkReady)), {}),
    )


def _rows(
    name: str,
    plans: Mapping[int, PlannedTrial],
    told: Sequence[AnyEvent],
    measured: tuple[Sequence[MessageRow], Sequence[IdleTrip]],
) -> Iterator[NetworkRow]:
    messages = [row for row in measured[0] if row.client == name]
    trips = [trip for trip in measured[1] if trip.client == name and trip.trial in plans]
    for condition in sorted({plan.condition for plan in plans.values()}):
        trials = {plan.index for plan in plans.values() if plan.condition == condition}
        proofs = [event for event in told if isinstance(event, LinkProved) and event.trial in trials]
        for control in (False, True):
            own = [row for row in messages if row.trial in trials and row.control is control]
            idle = [trip for trip in trips if trip.trial in trials and trip.control is control]
            if own or idle:
                yield _Group(name, own, idle, condition, control, () if control else proofs).row()


def _way(direction: Direction, messages: Iterable[MessageRow], proofs_ms: Sequence[float]) -> WayFound:
    rows = [row for row in messages if row.direction == direction]
    usable = [row for row in rows if row.usable]
    goodput = [
        8e-6 * row.size_bytes / row.transfer_s for row in usable if row.transfer_s and row.size_bytes is not None
    ]
    return WayFound(
        natural_ms=interval(1000 * (row.natural_s or 0.0) for row in rows if row.separable),
        transfer_ms=interval(1000 * (row.transfer_s or 0.0) for row in usable),
        uncertainty_ms=_median(1000 * s for row in rows if (s := row.natural_uncertainty_s) is not None),
        requested_ms=_median(row.requested_ms for row in rows if row.layer),
        applied_ms=_median(row.applied_ms for row in rows if row.layer),
        measured_ms=_median(proofs_ms or [row.held_ms for row in rows]),
        rate_mbit=_median(row.rate_mbit for row in rows),
        goodput_mbit=_median(goodput),
        retransmitted=_sum(row.retransmitted for row in rows),
        overflowed=_sum(row.overflowed for row in rows),
    )


def _probe(event: Probed) -> Probe:
    return Probe(
        stage=event.stage,
        rtt_ms=interval(event.rtt_ms),
        rtt_min_ms=min(event.rtt_ms, default=None),
        up_mbit=event.up_mbit,
        down_mbit=event.down_mbit,
    )


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _sum(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def network_problems(found: Network, clients: Sequence[ClientProcess]) -> Iterator[str]:
    """Yield sentences about what makes times of messages unusable, or a link not what was asked for."""
    for each in clients:
        for _, event in each.process.told:
            if isinstance(event, LinkLifted):
                yield f"{event.client}: the injected link was taken off: {event.reason}"
    for row in (each.whole for each in found.clients):
        for flag, count in row.flagged.items():
            if flag in UNFIT:
                yield f"{row.client}: {count} of {row.messages} one-way times are not used: {flag}"
        lost = (row.down.overflowed or 0) + (row.up.overflowed or 0)
        if lost:
            yield f"{row.client}: {lost} packets were lost because a queue of the injected link was full"
