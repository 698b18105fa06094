"""The page's sections on the network and on the clocks: tables, and the findings in sentences; plain text only."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from deploy.analysis.page.sections import Part, Section
from deploy.analysis.page.tables import Cell, Head, Row, Table, difference, number, short, spread, text
from deploy.analysis.reading.messages import UNFIT
from deploy.labels import UNKNOWN, settings_text, signed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from deploy.analysis.clocks.clock import ClockFound
    from deploy.analysis.reading.network import ClientNetwork, Network, NetworkRow, WayFound
    from deploy.analysis.reading.rows import Dataset

_NATURAL = (
    Head("natural round trip", "ms, idle"),
    Head("natural down", "ms ± clocks"),
    Head("natural up", "ms ± clocks"),
)
_RATES = (Head("goodput down", "Mbit/s"), Head("goodput up", "Mbit/s"), Head("sent again", "segments"))
_CLIENT, _STAGES = Head("client", number=False), ("before", "after")
_HOW = (
    "Down is from the server to the client: from a training message's first byte until all of it is there. Medians, in"
    " parentheses the interval that holds the true median with 95 % confidence (order statistics; from 6 values on)."
    " What the clocks do not tell comes on top: it shifts all times of a client alike, down against up."
)


def network(dataset: Dataset) -> Section:
    """Return the section on the network; empty where the logs tell nothing of it."""
    found = dataset.network
    whole = [client.whole for client in found.clients if _tells(client.whole)]
    if not whole:
        return Section(name="network", title="Network")
    return Section(name="network", title="Network", said=tuple(_said(found)), parts=tuple(_parts(dataset, whole)))


def _tells(row: NetworkRow) -> bool:
    return row.natural_rtt_ms is not None or row.down.transfer_ms is not None or row.up.transfer_ms is not None


def _parts(dataset: Dataset, whole: list[NetworkRow]) -> Iterator[Part]:
    found = dataset.network
    linked = (Head("layer", "that injects", number=False), Head("injected delay", "ms off, at most"))
    heads = (_CLIENT, *_NATURAL, *(linked if found.linked else ()), *_RATES)
    rows = tuple(Row((text(row.client), *_natural(row), *_link(row, found), *_rates(row))) for row in whole)
    yield Part(table=Table("network-clients", "Network by client", heads, rows), notes=(_HOW, *_notes(whole)))
    if found.linked:
        yield _by_condition(dataset)
    if any(client.probes for client in found.clients):
        yield _probes(found.clients)


def _link(row: NetworkRow, found: Network) -> tuple[Cell, ...]:
    """Return the layer, and by how much the injected delay was off at most, over all conditions."""
    if not found.linked:
        return ()
    own = [each for each in found.rows if each.client == row.client]
    layers = dict.fromkeys(each.layer for each in own if each.layer)
    return text(", ".join(layers) or UNKNOWN), number(max(_gaps_ms(own), default=None))


def _by_condition(dataset: Dataset) -> Part:
    ways = "ms: requested / applied / measured"
    heads = (
        _CLIENT, Head("condition", number=False), Head("rounds", number=False), *_NATURAL,
        Head("injected down", ways), Head("injected up", ways), *_RATES,
    )  # fmt: skip
    labels = {plan.condition: settings_text(plan) for plan in dataset.manifest.trials}
    rows = tuple(_condition_row(row, labels) for row in dataset.network.rows if _tells(row))
    table = Table("network-conditions", "Network by client and condition", heads, rows)
    return Part(table=table, title="The network by client and condition", folded=True)


def _condition_row(row: NetworkRow, labels: dict[int, str]) -> Row:
    label = labels.get(row.condition, UNKNOWN) if row.condition is not None else UNKNOWN
    kind = "control" if row.control else "injected"
    injected = (_injected(row.down), _injected(row.up))
    return Row((text(row.client), text(label), text(kind), *_natural(row), *injected, *_rates(row)), label)


def _natural(row: NetworkRow) -> tuple[Cell, ...]:
    return spread(row.natural_rtt_ms), _one_way(row.down), _one_way(row.up)


def _one_way(way: WayFound) -> Cell:
    """Write a natural time with its interval and the clocks' uncertainty; only a bound, where that is larger."""
    if way.natural_ms is None or way.uncertainty_ms is None:
        return Cell(UNKNOWN)
    middle = way.natural_ms.median
    if middle < way.uncertainty_ms:
        return Cell(f"\N{LESS-THAN OR EQUAL TO} {short(middle + way.uncertainty_ms)}", middle)
    return Cell(f"{spread(way.natural_ms).text} ± {short(way.uncertainty_ms)}", middle)


def _rates(row: NetworkRow) -> tuple[Cell, ...]:
    sent_again = [count for count in (row.down.retransmitted, row.up.retransmitted) if count is not None]
    again = number(sum(sent_again) if sent_again else None, "d")
    return number(row.down.goodput_mbit), number(row.up.goodput_mbit), again


def _injected(way: WayFound) -> Cell:
    """Write requested, applied and measured delay, and the rate."""
    if way.requested_ms is None:
        return Cell(UNKNOWN)
    delays = " / ".join(short(value) for value in (way.requested_ms, way.applied_ms, way.measured_ms))
    return Cell(f"{delays}; {way.rate_mbit:g} Mbit/s" if way.rate_mbit else delays, way.requested_ms)


def _probes(clients: Iterable[ClientNetwork]) -> Part:
    heads = tuple(
        Head(name, f"{unit}, {stage}")
        for stage in _STAGES
        for name, unit in (("round trip", "ms"), ("down", "Mbit/s"), ("up", "Mbit/s"))
    )
    rows = tuple(Row((text(each.whole.client), *_probe(each))) for each in clients)
    table = Table("network-probes", "Probes of the idle network", (_CLIENT, *heads), rows)
    note = "Before the first trial and after the last, with nothing injected."
    return Part(table=table, title="The network as probed", notes=(note,), folded=True)


def _probe(client: ClientNetwork) -> Iterator[Cell]:
    for stage in _STAGES:
        probe = next((each for each in reversed(client.probes) if each.stage == stage), None)
        yield spread(probe.rtt_ms if probe else None)
        yield number(probe.down_mbit if probe else None)
        yield number(probe.up_mbit if probe else None)


def _said(found: Network) -> Iterator[str]:
    """Yield the findings."""
    trips = {
        client.whole.client: client.whole.natural_rtt_ms.median
        for client in found.clients
        if client.whole.natural_rtt_ms is not None
    }
    if trips:
        near, far = min(trips, key=trips.__getitem__), max(trips, key=trips.__getitem__)
        span = f"from {short(trips[near])} ms ({near}) to {short(trips[far])} ms ({far})"
        takes = f"{short(trips[near])} ms ({near})" if near == far else span
        yield f"By itself the network takes {takes} there and back, in the median of an idle connection."
    gaps = list(_gaps_ms(found.rows))
    if gaps:
        yield f"Injected delays, as measured, differ from those that were requested by {short(max(gaps))} ms at most."


def _gaps_ms(rows: Iterable[NetworkRow]) -> Iterator[float]:
    for way in (way for row in rows for way in (row.down, row.up)):
        if way.requested_ms is not None and way.measured_ms is not None:
            yield abs(way.measured_ms - way.requested_ms)


def _notes(rows: Iterable[NetworkRow]) -> Iterator[str]:
    """Yield how many times are flagged, and what that means."""
    flags: Counter[str] = Counter()
    total = 0
    for row in rows:
        flags.update(row.flagged)
        total += row.messages
    for flag, count in flags.items():
        how = (
            "in no time"
            if flag in UNFIT
            else "counted all the same"
            if flag.startswith("below")
            else "in no natural time"
        )
        yield f"{count} of {total} times one way are flagged “{flag}”: {how}."


def clocks(dataset: Dataset) -> Section:
    """Return the section on the clocks of the clients against the server's; empty without any exchange."""
    known = [1000 * each.uncertainty_s for each in dataset.clocks if each.uncertainty_s is not None]
    if not known:
        return Section(name="clocks", title="Clocks")
    heads = (
        Head("clock of", number=False),
        Head("time of day", "first, s ahead"),
        Head("time of day", "last, s ahead"),
        Head("drift", "ppm ± bound"),
        Head("known to", "± ms, median"),
        Head("exchanges", "gRPC + SSH"),
        Head("narrower", number=False),
    )
    table = Table("clocks-table", "Clocks", heads, tuple(Row(_clock(each)) for each in dataset.clocks))
    note = "Against the server's clock. Times of messages are by the monotonic clocks, which nobody sets."
    said = f"By the clocks, times one way are known to ± {short(max(known))} ms, or better."
    return Section(name="clocks", title="Clocks", said=(said,), parts=(Part(table=table, notes=(note,)),))


def _clock(clock: ClockFound) -> tuple[Cell, ...]:
    first_s, last_s = clock.wall_offset_s or (None, None)
    drift = UNKNOWN if clock.wall_drift_ppm is None else signed(f"{clock.wall_drift_ppm:.1f}")
    bound = "" if clock.drift_uncertainty_ppm is None else f" ± {clock.drift_uncertainty_ppm:.0f}"
    return (
        text(f"{clock.client}, process {clock.process + 1}" if clock.process else clock.client),
        difference(first_s, ".4f"),
        difference(last_s, ".4f"),
        Cell(drift + bound, clock.wall_drift_ppm),
        number(None if clock.uncertainty_s is None else 1000 * clock.uncertainty_s),
        Cell(f"{clock.grpc_exchanges} + {clock.ssh_exchanges}", clock.grpc_exchanges + clock.ssh_exchanges),
        text(clock.source or UNKNOWN),
    )
