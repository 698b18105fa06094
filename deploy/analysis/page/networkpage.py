"""The page's section on the network: cells of its tables, and the findings in sentences; plain text, to be escaped."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from deploy.analysis.reading.messages import UNFIT
from deploy.labels import UNKNOWN, settings_text, signed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from deploy.analysis.clocks.clock import ClockFound
    from deploy.analysis.reading.network import ClientNetwork, Network, NetworkRow, WayFound
    from deploy.analysis.reading.rows import Dataset
    from deploy.analysis.statistics.interval import Interval

_ALL = "all"


def network_section(dataset: Dataset) -> dict[str, Any]:
    """Return what the template needs; no rows where the logs tell nothing of the network."""
    found = dataset.network
    rows = [row for row in (found.rows if found.linked else _whole(found)) if _tells(row)]
    labels = {plan.condition: settings_text(plan) for plan in dataset.manifest.trials}
    probes = any(client.probes for client in found.clients)
    return {
        "linked": found.linked,
        "said": tuple(_said(dataset)) if rows else (),
        "rows": [
            {"client": row.client, "condition": _condition(row, labels), "cells": _cells(row, found)} for row in rows
        ],
        "clocks": [{"client": _process(clock), "cells": _clock_cells(clock)} for clock in dataset.clocks if rows],
        "probes": [{"client": each.whole.client, "cells": _probe_cells(each)} for each in found.clients if probes],
        "notes": tuple(_notes(rows)),
    }


def _whole(found: Network) -> Iterator[NetworkRow]:
    return (client.whole for client in found.clients)


def _tells(row: NetworkRow) -> bool:
    return row.natural_rtt_ms is not None or row.down.transfer_ms is not None or row.up.transfer_ms is not None


def _condition(row: NetworkRow, labels: dict[int, str]) -> str:
    name = _ALL if row.condition is None else labels.get(row.condition, _ALL)
    return f"{name}; control rounds" if row.control else name


def _cells(row: NetworkRow, found: Network) -> list[str]:
    natural = [_interval(row.natural_rtt_ms), _natural(row.down), _natural(row.up)]
    rates = [_number(way.goodput_mbit) for way in (row.down, row.up)]
    sent_again = _number(_sum(row.down.retransmitted, row.up.retransmitted), "d")
    if not found.linked:
        return [*natural, *rates, sent_again]
    return [row.layer or UNKNOWN, *natural, _injected(row.down), _injected(row.up), *rates, sent_again]


def _natural(way: WayFound) -> str:
    """Write a natural time with its interval and the clocks' uncertainty; only a bound, where that is larger."""
    if way.natural_ms is None or way.uncertainty_ms is None:
        return UNKNOWN
    if way.natural_ms.median < way.uncertainty_ms:
        return f"\N{LESS-THAN OR EQUAL TO} {_number(way.natural_ms.median + way.uncertainty_ms)}"
    return f"{_interval(way.natural_ms)} ± {_number(way.uncertainty_ms)}"


def _injected(way: WayFound) -> str:
    """Write requested, applied and measured delay, and the rate."""
    if way.requested_ms is None:
        return UNKNOWN
    delays = " / ".join(_number(value) for value in (way.requested_ms, way.applied_ms, way.measured_ms))
    return f"{delays}; {way.rate_mbit:g} Mbit/s" if way.rate_mbit else delays


def _interval(found: Interval | None) -> str:
    if found is None:
        return UNKNOWN
    middle = _number(found.median)
    if found.low is None or found.high is None:
        return middle
    return f"{middle} ({_number(found.low)}\N{EN DASH}{_number(found.high)})"


def _number(value: float | None, style: str = "") -> str:
    """Write a number with as many digits as are worth reading: hundredths below 10, tenths below 1000, none above."""
    if value is None:
        return UNKNOWN
    if style:
        return f"{value:{style}}"
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 1000 else 0  # noqa: PLR2004 - as the docstring says
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _process(clock: ClockFound) -> str:
    return f"{clock.client}, process {clock.process + 1}" if clock.process else clock.client


def _clock_cells(clock: ClockFound) -> list[str]:
    offsets = clock.wall_offset_s
    drift = UNKNOWN if clock.wall_drift_ppm is None else signed(f"{clock.wall_drift_ppm:.1f}")
    return [
        UNKNOWN if offsets is None else signed(f"{offsets[0]:.4f}"),
        UNKNOWN if offsets is None else signed(f"{offsets[1]:.4f}"),
        f"{drift} ± {clock.drift_uncertainty_ppm:.0f}" if clock.drift_uncertainty_ppm is not None else drift,
        _number(None if clock.uncertainty_s is None else 1000 * clock.uncertainty_s),
        f"{clock.grpc_exchanges} + {clock.ssh_exchanges}",
        clock.source or UNKNOWN,
    ]


def _probe_cells(client: ClientNetwork) -> list[str]:
    cells = []
    for stage in ("before", "after"):
        probe = next((each for each in reversed(client.probes) if each.stage == stage), None)
        cells += [
            _interval(probe.rtt_ms) if probe else UNKNOWN,
            _number(probe.down_mbit if probe else None),
            _number(probe.up_mbit if probe else None),
        ]
    return cells


def _said(dataset: Dataset) -> Iterator[str]:
    """Yield the findings."""
    trips = {
        client.whole.client: client.whole.natural_rtt_ms.median
        for client in dataset.network.clients
        if client.whole.natural_rtt_ms is not None
    }
    if trips:
        near, far = min(trips, key=trips.__getitem__), max(trips, key=trips.__getitem__)
        span = f"from {_number(trips[near])} ms ({near}) to {_number(trips[far])} ms ({far})"
        takes = f"{_number(trips[near])} ms ({near})" if near == far else span
        yield f"By itself the network takes {takes} there and back, in the median of an idle connection."
    known = [1000 * clock.uncertainty_s for clock in dataset.clocks if clock.uncertainty_s is not None]
    if known:
        yield f"By the clocks, times one way are known to ±\N{NO-BREAK SPACE}{_number(max(known))} ms, or better."
    gaps = [abs(gap) for row in dataset.network.rows for way in (row.down, row.up) if (gap := _gap_ms(way)) is not None]
    if gaps:
        yield f"Injected delays, as measured, differ from those that were requested by {_number(max(gaps))} ms at most."


def _gap_ms(way: WayFound) -> float | None:
    known = way.requested_ms is not None and way.measured_ms is not None
    return (way.measured_ms or 0.0) - (way.requested_ms or 0.0) if known else None


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


def _sum(*counts: int | None) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
