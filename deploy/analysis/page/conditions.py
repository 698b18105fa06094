"""The page's section on the conditions, and how their expected times were computed."""

from __future__ import annotations

import json
from itertools import chain
from statistics import median
from typing import TYPE_CHECKING, Any

from deploy.analysis.page.sections import Part, Section
from deploy.analysis.page.tables import Cell, Head, Row, Table, difference, number, text
from deploy.analysis.statistics.theory import ideal_s
from deploy.labels import UNKNOWN, named_text, seconds_text, setting_name, setting_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from deploy.analysis.reading.rows import ClientRound, Dataset
    from deploy.analysis.statistics.conditions import Analysis, Condition

_HEADS = (
    Head("trials", "done / planned"),
    Head("rounds"),
    Head("accuracy", "last, mean"),
    Head("measured", "s, mean"),
    Head("± s.d.", "s"),
    Head("expected", "s"),
    Head("difference", "s"),
    Head("difference", "%"),
    Head("expected", "as drawn, s"),
    Head("ideal", "s"),
)


def conditions(analysis: Analysis) -> Section:
    """Return the section with a row for each condition."""
    keys = list(dict.fromkeys(chain.from_iterable(each.plan.settings for each in analysis.conditions)))
    swept = tuple(Head(setting_name(key), number=True) for key in keys) or (Head("condition", number=False),)
    rows = tuple(Row((*_swept(each, keys), *_cells(each)), each.label) for each in analysis.conditions)
    table = Table("conditions-table", "Conditions", (*swept, *_HEADS), rows)
    notes = [
        "Ideal time: over the rounds, the sum of the slowest client's compute time and injected delay.",
        _accounted(analysis.dataset),
        "* Some trials did not reach the target: not part of the means."
        if any(each.censored for each in analysis.conditions)
        else "",
    ]
    said = (delay_check(analysis.dataset),) if analysis.dataset.complete else ()
    part = Part(table=table, notes=tuple(note for note in notes if note))
    return Section(name="conditions", title="Conditions", said=said, parts=(part,))


def _swept(condition: Condition, keys: Sequence[str]) -> Iterator[Cell]:
    settings = condition.plan.settings
    if not keys:
        yield text(condition.label)
    for key in keys:
        value = settings.get(key)
        place = float(value) if isinstance(value, int | float) else None
        yield Cell(setting_text(condition.plan, key) if key in settings else UNKNOWN, place)


def _cells(condition: Condition) -> tuple[Cell, ...]:
    star = " *" if condition.censored else ""
    return (
        Cell(f"{condition.complete} / {condition.planned}", condition.complete),
        number(condition.rounds, "g"),
        number(condition.accuracy, ".3f"),
        _seconds(condition.total_s, star),
        _seconds(condition.std_s),
        _seconds(condition.expected_s),
        difference(condition.difference_s),
        difference(condition.difference_pct, ".1f"),
        _seconds(condition.drawn_s),
        _seconds(condition.ideal_s),
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
        known = {"c": f"{base.round_s:.3f}", "rounds": base.rounds, "source": base.source} if base else {"c": ""}
        yield {"group": group, **known}


def _inequality(dataset: Dataset) -> str:
    """Say how unequal the clients' compute times are, for theory takes them to be equal."""
    medians = {name: median(times) for name, times in _compute_times(dataset).items()}
    if len(medians) < 2:  # noqa: PLR2004 - one client cannot be unequal
        return ""
    fast, slow = min(medians, key=medians.__getitem__), max(medians, key=medians.__getitem__)
    return (
        f"Theory takes the clients to be equally fast; their median compute times went from"
        f" {medians[fast]:.3f} s ({fast}) to {medians[slow]:.3f} s ({slow})."
    )


def _compute_times(dataset: Dataset) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {}
    for row in _client_rounds(dataset):
        if row.compute_s is not None:
            times.setdefault(row.client, []).append(row.compute_s)
    return times


def _client_rounds(dataset: Dataset) -> Iterator[ClientRound]:
    return (row for trial in dataset.trials for each in trial.rounds for row in each.clients)


def delay_check(dataset: Dataset) -> str:
    """Return in words how far injected delays were from what was drawn; delays of 0 s do not count."""
    pairs = [(row.requested_s, row.measured_s) for row in _client_rounds(dataset)]
    gaps_ms = [1000 * abs(got - want) for want, got in pairs if want and got is not None]
    if not gaps_ms:
        return "The app injected no delay." if dataset.network.linked else "No delay was injected."
    return (
        f"{len(gaps_ms)} delays were injected. Measured minus drawn: at most {max(gaps_ms):.2f} ms,"
        f" in the median {median(gaps_ms):.2f} ms (absolute values)."
    )
