"""What the network did by itself and what was injected, by client and condition, control rounds apart.

Times of messages are those of training, for all of these are of one size. A median's interval is of the spread; what
the clocks do not know shifts all of a client's one-way times alike, and stands beside it as `uncertainty_ms`.
"""

from __future__ import annotations

from collections import defaultdict
from statistics import median
from typing import TYPE_CHECKING, Any

import msgspec
import polars as pl

from deploy.analysis.reading.messages import FLAGS, UNFIT, separable, usable
from deploy.analysis.reading.works import is_training
from deploy.analysis.statistics.interval import Interval, interval
from flcommon.events import LinkLifted, LinkProved, LinkReady, Probed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from deploy.analysis.clocks.clock import ClientProcess
    from deploy.manifest import Manifest
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
    manifest: Manifest, clients: Sequence[ClientProcess], messages: pl.DataFrame, idle: pl.DataFrame
) -> Network:
    """Sum up a run by client and condition; the warm-up counts as none."""
    plans = pl.DataFrame(
        {
            "trial": [trial.index for trial in manifest.trials],
            "condition": [trial.condition for trial in manifest.trials],
        },
        schema={"trial": pl.Int64, "condition": pl.Int64},
    ).unique("trial")
    told: defaultdict[str, list[AnyEvent]] = defaultdict(list)
    for each in clients:
        told[each.process.host] += [event for _, event in each.process.told]
    training = messages.lazy().filter(is_training()).select(*_measured()).collect()
    training = training.join(plans, on="trial", maintain_order="left")
    idle = idle.with_columns((pl.col("rtt_s") - pl.col("injected_s")).alias("natural_s"))
    whole = _Sums(training, _undisturbed(idle), ("client",))
    parts = _Sums(training, idle.join(plans, on="trial"), ("client", "condition", "control"))
    return Network(
        clients=tuple(_client(name, told[name], whole) for name in manifest.clients),
        rows=tuple(row for name in manifest.clients for row in _rows(name, manifest, told[name], parts)),
        linked=any(trial.links for trial in manifest.trials),
    )


def _undisturbed(idle: pl.DataFrame) -> pl.DataFrame:
    """Return the trips of each client into which nothing was injected; all of them, where there is none."""
    plain = pl.col("injected_s") == 0.0
    return idle.filter(plain | ~plain.any().over("client"))


_Group = tuple[Any, ...]
"""A client; in sums by condition also that, and whether it is about control rounds."""


class _Sums:
    """Messages and idle trips by group."""

    def __init__(self, messages: pl.DataFrame, idle: pl.DataFrame, by: tuple[str, ...]) -> None:
        self._ways = _by_group(messages.group_by(*by, "direction").agg(_way_sums()), (*by, "direction"))
        self._flags = _flags(messages, by)
        self._layers = _by_group(messages.group_by(by).agg(pl.len(), pl.col("layer").drop_nulls().first()), by)
        trips = idle.group_by(by).agg((pl.col("natural_s").drop_nulls() * 1000).sort())
        self._trips = _by_group(trips, by)

    def row(self, group: _Group, proofs: Sequence[LinkProved] = ()) -> NetworkRow | None:
        """Return what is known of a group; None, if nothing is."""
        found, trips = self._layers.get(group), self._trips.get(group)
        if found is None and trips is None:
            return None
        layers = [found["layer"] if found else None, *(proof.layer for proof in proofs)]
        ways = [self._ways.get((*group, way)) for way in ("down", "up")]
        return NetworkRow(
            client=group[0],
            condition=group[1] if len(group) > 1 else None,
            control=bool(group[2:] and group[2]),
            layer=next((layer for layer in layers if layer), None),
            messages=found["len"] if found else 0,
            flagged=self._flags.get(group, {}),
            natural_rtt_ms=trips["natural_s"] if trips else None,
            down=_way(ways[0], [ms for proof in proofs if (ms := proof.measured_down_ms) is not None]),
            up=_way(ways[1], [ms for proof in proofs if (ms := proof.measured_up_ms) is not None]),
        )


def _by_group(sums: pl.DataFrame, by: tuple[str, ...]) -> dict[_Group, dict[str, Any]]:
    """Return what is known by group; of all values of one, which are many, the median with its interval."""
    return {
        tuple(row[name] for name in by): {
            name: interval(value) if isinstance(value, list) else value for name, value in row.items()
        }
        for row in sums.iter_rows(named=True)
    }


def _flags(messages: pl.DataFrame, by: tuple[str, ...]) -> dict[tuple[Any, ...], dict[str, int]]:
    """Count each flag, in the order in which they are told."""
    counts = (
        messages.filter(pl.col("flags") != "")
        .group_by(by)
        .agg(pl.col("flags").str.contains(flag, literal=True).sum().alias(flag) for flag in FLAGS)
    )
    found = _by_group(counts, by)
    return {group: {flag: row[flag] for flag in FLAGS if row[flag]} for group, row in found.items()}


def _measured() -> Iterator[pl.Expr | str]:
    """Yield what is summed up of each message; null where it may not be used."""
    fit = usable() & (pl.col("transfer_s") != 0)
    yield from ("client", "trial", "control", "direction", "layer", "flags", "held_ms", "rate_mbit")
    yield from ("retransmitted", "overflowed")
    yield (1000 * pl.when(separable()).then("natural_s")).alias("natural_ms")
    yield (1000 * pl.when(usable()).then("transfer_s")).alias("transfer_ms")
    yield (1000 * pl.col("natural_uncertainty_s")).alias("uncertainty_ms")
    yield pl.when(pl.col("layer").is_not_null()).then(pl.col("requested_ms", "applied_ms"))
    yield (8e-6 * pl.when(fit).then("size_bytes") / pl.col("transfer_s")).alias("goodput_mbit")


def _way_sums() -> Iterator[pl.Expr]:
    """Yield what is summed up of a direction's messages; medians are of what is known."""
    yield pl.col("natural_ms", "transfer_ms").drop_nulls().sort()
    yield pl.col("uncertainty_ms", "requested_ms", "applied_ms", "held_ms", "rate_mbit", "goodput_mbit").median()
    for name in ("retransmitted", "overflowed"):
        yield pl.when(pl.col(name).is_not_null().any()).then(pl.col(name).sum()).alias(name)


def _client(name: str, told: Sequence[AnyEvent], sums: _Sums) -> ClientNetwork:
    nothing = NetworkRow(
        client=name, condition=None, control=False, layer=None, messages=0, flagged={}, natural_rtt_ms=None,
        down=WayFound(), up=WayFound(),
    )  # fmt: skip
    return ClientNetwork(
        whole=sums.row((name,)) or nothing,
        probes=tuple(_probe(event) for event in told if isinstance(event, Probed)),
        about=next((event.about for event in told if isinstance(event, LinkReady)), {}),
    )


def _rows(name: str, manifest: Manifest, told: Sequence[AnyEvent], sums: _Sums) -> Iterator[NetworkRow]:
    proofs = [event for event in told if isinstance(event, LinkProved)]
    for condition in sorted({trial.condition for trial in manifest.trials}):
        trials = {trial.index for trial in manifest.trials if trial.condition == condition}
        own = [proof for proof in proofs if proof.trial in trials]
        for control in (False, True):
            row = sums.row((name, condition, control), () if control else own)
            if row is not None:
                yield row


def _way(sums: dict[str, Any] | None, proofs_ms: Sequence[float]) -> WayFound:
    if sums is None:
        return WayFound(measured_ms=median(proofs_ms) if proofs_ms else None)
    return WayFound(
        natural_ms=sums["natural_ms"],
        transfer_ms=sums["transfer_ms"],
        uncertainty_ms=sums["uncertainty_ms"],
        requested_ms=sums["requested_ms"],
        applied_ms=sums["applied_ms"],
        measured_ms=median(proofs_ms) if proofs_ms else sums["held_ms"],
        rate_mbit=sums["rate_mbit"],
        goodput_mbit=sums["goodput_mbit"],
        retransmitted=sums["retransmitted"],
        overflowed=sums["overflowed"],
    )


def _probe(event: Probed) -> Probe:
    return Probe(
        stage=event.stage,
        rtt_ms=interval(event.rtt_ms),
        rtt_min_ms=min(event.rtt_ms, default=None),
        up_mbit=event.up_mbit,
        down_mbit=event.down_mbit,
    )


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
