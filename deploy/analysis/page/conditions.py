"""The page's section on the conditions, and how their expected times were computed."""

from __future__ import annotations

import json
from itertools import chain
from statistics import median
from typing import TYPE_CHECKING, Any

import msgspec
import polars as pl

from deploy.analysis.page.sections import Part, Section
from deploy.analysis.page.tables import Cell, Head, Row, Table, difference, number, text
from deploy.analysis.statistics.theory import ideal_s
from deploy.labels import UNKNOWN, named_text, seconds_text, setting_name, setting_text, span_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from deploy.analysis.reading.rows import Dataset
    from deploy.analysis.statistics.conditions import Analysis, Condition


def conditions(analysis: Analysis) -> Section:
    """Return the section with a row for each condition; a column of which nothing is known is left out."""
    rows = [dict(_columns(each, _keys(analysis))) for each in analysis.conditions]
    known = [head for head in (rows[0] if rows else ()) if any(row[head].text != UNKNOWN for row in rows)]
    cells = (tuple(row[head] for head in known) for row in rows)
    labelled = tuple(Row(each, row.label) for each, row in zip(cells, analysis.conditions, strict=True))
    table = Table("conditions-table", "Conditions", tuple(known), labelled)
    said = (delay_check(analysis.dataset),) if analysis.dataset.complete else ()
    part = Part(table=table, notes=tuple(_notes(analysis)))
    return Section(name="conditions", title="Conditions", said=said, parts=(part,))


def _keys(analysis: Analysis) -> list[str]:
    return list(dict.fromkeys(chain.from_iterable(each.plan.settings for each in analysis.conditions)))


def _columns(condition: Condition, keys: Sequence[str]) -> Iterator[tuple[Head, Cell]]:
    yield from _swept(condition, keys)
    yield Head("trials", "done / planned"), Cell(f"{condition.complete} / {condition.planned}", condition.complete)
    yield Head("rounds"), _rounds(condition.rounds)
    yield Head("accuracy", "last, mean"), number(condition.accuracy, ".3f")
    yield Head("measured", "s, mean"), _seconds(condition.total_s, " *" if condition.censored else "")
    yield Head("measured", "95 % interval"), _span(condition.low_s, condition.high_s)
    yield Head("± s.d.", "s"), _seconds(condition.std_s)
    yield from _target(condition)
    yield Head("expected", "s"), _seconds(condition.expected_s)
    yield Head("expected", "95 % band"), _span(condition.expected_low_s, condition.expected_high_s)
    yield Head("difference", "s"), difference(condition.difference_s)
    yield Head("difference", "%"), difference(condition.difference_pct, ".1f")
    yield Head("p-value", "of theory"), number(condition.p_value, ".2g")
    yield Head("expected", "as drawn, s"), _seconds(condition.drawn_s)
    yield Head("ideal", "s"), _seconds(condition.ideal_s)


def _rounds(mean: float | None) -> Cell:
    """Write a number of rounds; hundredths only where trials had different numbers of them."""
    return number(mean, ".2f" if mean is not None and mean % 1 else ".0f")


def _swept(condition: Condition, keys: Sequence[str]) -> Iterator[tuple[Head, Cell]]:
    settings = condition.plan.settings
    if not keys:
        yield Head("condition", number=False), text(condition.label)
    for key in keys:
        value = settings.get(key)
        place = float(value) if isinstance(value, int | float) else None
        yield Head(setting_name(key)), Cell(setting_text(condition.plan, key) if key in settings else UNKNOWN, place)


def _target(condition: Condition) -> Iterator[tuple[Head, Cell]]:
    found = condition.to_target
    count = Cell(UNKNOWN) if found is None else Cell(f"{found.reached} / {found.n}", found.reached)
    yield Head("target", "reached / trials"), count
    yield Head("to target", "s, see below"), _seconds(found.time_s if found else None, _restricted(condition))
    yield Head("to target", "95 % interval"), _span(found.low_s, found.high_s) if found else Cell(UNKNOWN)


def _restricted(condition: Condition) -> str:
    return " †" if condition.to_target is not None and condition.to_target.horizon_s is not None else ""


def _span(low: float | None, high: float | None) -> Cell:
    ends = (None if end is None else seconds_text(end) for end in (low, high))
    return Cell(span_text(*ends), low if low is not None else high)


def _notes(analysis: Analysis) -> Iterator[str]:
    yield "Ideal time: over the rounds, the sum of the slowest client's compute time and injected delay."
    if accounted := _accounted(analysis.dataset):
        yield accounted
    methods = dict.fromkeys(each.method for each in analysis.conditions if each.method)
    if methods:
        yield f"Intervals of means: {', '.join(methods)}."
    if any(each.censored for each in analysis.conditions):
        yield "* Some trials did not reach the target: not part of the means."
    if any(each.to_target for each in analysis.conditions):
        yield (
            "To target: the median by Kaplan and Meier, to which trials that did not get there count as censored;"
            " † fewer than half got there: the mean within the time that was measured."
        )


def _seconds(value_s: float | None, star: str = "") -> Cell:
    return Cell(seconds_text(value_s) + star, value_s)


def _accounted(dataset: Dataset) -> str:
    pairs = [(trial.total_s, ideal_s(trial)) for trial in dataset.complete]
    total = sum(total_s or 0.0 for total_s, _ in pairs)
    ideal = sum(part for _, part in pairs if part is not None)
    if not total or any(part is None for _, part in pairs):
        return ""
    if not all(each.covered for trial in dataset.complete for each in trial.rounds):
        return f"All completed trials together: at least {seconds_text(ideal)} s of {seconds_text(total)} s."
    rest = f"the other {100 * (1 - ideal / total):.1f} % are network, coordination and evaluation"
    return f"All completed trials together: {seconds_text(ideal)} s of {seconds_text(total)} s; {rest}."


def method(analysis: Analysis) -> dict[str, Any]:
    """Return what the template on the method needs."""
    return {
        "clients": analysis.clients,
        "baselines": list(_baselines(analysis)),
        "inequality": _inequality(analysis.dataset),
    }


def _baselines(analysis: Analysis) -> Iterator[dict[str, Any]]:
    for key, base in analysis.baselines.items():
        values = json.loads(key)
        group = ", ".join(named_text(name, value) for name, value in values.items())
        known = msgspec.structs.asdict(base) | {"c": f"{base.round_s:.3f}"} if base else {"c": "", "settling": 0}
        yield {"group": group, **known}


def _inequality(dataset: Dataset) -> str:
    """Say how unequal the clients' compute times are, for theory takes them to be equal."""
    medians = _compute_times(dataset)
    if len(medians) < 2:  # noqa: PLR2004 - one client cannot be unequal
        return ""
    fast, slow = min(medians, key=medians.__getitem__), max(medians, key=medians.__getitem__)
    return (
        f"Theory takes the clients to be equally fast; their median compute times went from"
        f" {medians[fast]:.3f} s ({fast}) to {medians[slow]:.3f} s ({slow})."
    )


def _compute_times(dataset: Dataset) -> dict[str, float]:
    """Return each client's median compute time."""
    known = dataset.works.drop_nulls("compute_s").group_by("client", maintain_order=True)
    return dict(known.agg(pl.col("compute_s").median()).iter_rows())


def delay_check(dataset: Dataset) -> str:
    """Return in words how far injected delays were from what was drawn; delays of 0 s do not count."""
    delayed = dataset.works.filter((pl.col("requested_s") != 0) & pl.col("measured_s").is_not_null())
    gaps_ms = (1000 * (delayed["measured_s"] - delayed["requested_s"]).abs()).to_list()
    if not gaps_ms:
        return "The app injected no delay." if dataset.network.linked else "No delay was injected."
    return (
        f"{len(gaps_ms)} delays were injected. Measured minus drawn: at most {max(gaps_ms):.2f} ms,"
        f" in the median {median(gaps_ms):.2f} ms (absolute values)."
    )
