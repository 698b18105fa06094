"""The sections of a comparison's page: first what differs between the runs, then what that did."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploy.analysis.page.sections import Part, Section
from deploy.analysis.page.tables import Cell, Head, Row, Table, number, spread, text
from deploy.analysis.statistics.effects import ADDED
from deploy.labels import UNKNOWN, fixed, signed, span_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from deploy.analysis.comparing.match import Comparison, Match, Side
    from deploy.analysis.comparing.runs import Run
    from deploy.analysis.page.sections import Picture
    from deploy.analysis.statistics.estimate import Estimate

PAIRS = (
    "A mean has Student's t; a difference the t of pairs where trials drew the same delays and started from the same"
    " weights (same repeat, schedule, seeds, number of rounds and, where something is injected, clients), else Welch's"
    " t; a ratio of means Fieller's interval."
)
LONG = 24
"""Words of more letters take several lines."""
METHODS = (
    "Intervals hold the true value in 95 of 100 cases, each taken by itself.",
    PAIRS,
    "n counts trials, or pairs.",
)


def sections(comparison: Comparison, pictures: Sequence[Picture]) -> list[Section]:
    """Return the sections in the order of the page; those that say nothing are left out."""
    found = (
        _differing(comparison),
        _time(comparison, pictures),
        _target(comparison),
        _path(comparison),
        _network(comparison),
    )
    return [each for each in found if each.tells]


def _differing(comparison: Comparison) -> Section:
    long = any(len(value) > LONG for each in comparison.differing for value in each.values)
    heads = (Head("", number=False), *(Head(run.name, number=False, wide=long) for run in comparison.runs))
    rows = tuple(Row((text(each.what), *map(text, each.values))) for each in comparison.differing)
    said = "All else that manifests and logs tell is the same." if rows else "Nothing that was recorded differs."
    parts = (Part(table=Table("differing-table", "What differs between the runs", heads, rows), notes=(said,)),)
    return Section(
        name="differing",
        title="What differs between the runs",
        said=() if rows else (said,),
        parts=parts if rows else (),
    )


def _time(comparison: Comparison, pictures: Sequence[Picture]) -> Section:
    heads = (
        Head("condition", number=False), Head("run", number=False), Head("trials"), Head("time", "s, 95 %"),
        Head("difference", "s, 95 %"), Head("ratio", "95 %"), Head("accuracy", "last, mean"),
        Head("accuracy", "difference, 95 %"), Head("method", number=False),
    )  # fmt: skip
    table = Table("time-table", "Training time by condition and run", heads, _rows(comparison, _time_cells))
    return Section(
        name="time", title="Training time", pictures=tuple(pictures), parts=(Part(table=table, notes=METHODS),)
    )


def _rows(comparison: Comparison, cells: Callable[[Side], Sequence[Cell]]) -> tuple[Row, ...]:
    """Return a row for each run of each condition: the condition, the run, and these cells."""
    return tuple(
        Row((text(match.label), text(run.name), *cells(side)), match.label)
        for match in comparison.matches
        for run, side in _sides(comparison, match)
    )


def _sides(comparison: Comparison, match: Match) -> Iterator[tuple[Run, Side]]:
    for run, side in zip(comparison.runs, match.sides, strict=True):
        if side is not None:
            yield run, side


def _time_cells(side: Side) -> tuple[Cell, ...]:
    one, versus = side.condition, side.versus
    trials = f"{one.complete - one.censored}" + (f" of {one.complete}" if one.censored else "")
    return (
        Cell(trials, one.complete - one.censored),
        _between(one.total_s, one.low_s, one.high_s),
        _gap(versus.difference if versus else None, 2),
        _estimate(versus.ratio if versus else None),
        number(one.accuracy, ".3f"),
        _gap(versus.accuracy if versus else None, 3),
        text((_method(versus.difference, versus.ratio) if versus else UNKNOWN).replace(" ", "\N{NO-BREAK SPACE}")),
    )


def _between(value: float | None, low: float | None, high: float | None) -> Cell:
    if value is None:
        return Cell(UNKNOWN)
    if low is None and high is None:
        return Cell(f"{value:.2f}", value)
    ends = (None if end is None else fixed(end) for end in (low, high))
    return Cell(f"{value:.2f} ({span_text(*ends)})", value)


def _estimate(found: Estimate | None) -> Cell:
    return Cell(UNKNOWN) if found is None else _between(found.value, found.low, found.high)


def _gap(found: Estimate | None, digits: int) -> Cell:
    if found is None:
        return Cell(UNKNOWN)
    value = signed(f"{found.value:.{digits}f}")
    if found.low is None or found.high is None:
        return Cell(value, found.value)
    low, high = (signed(f"{bound:.{digits}f}") for bound in (found.low, found.high))
    return Cell(f"{value} ({span_text(low, high)})", found.value)


def _method(difference: Estimate | None, ratio: Estimate | None) -> str:
    if difference is None:
        return UNKNOWN
    count = f"n = {difference.n}" + (f" and {difference.n_reference}" if difference.n_reference else "")
    methods = dict.fromkeys(each.method.removeprefix("paired ") for each in (difference, ratio) if each and each.method)
    paired = "pairs: " if difference.method.startswith("paired") else ""
    return ", ".join([*([paired + " and ".join(methods)] if methods else []), count])


def _target(comparison: Comparison) -> Section:
    heads = (
        Head("condition", number=False), Head("run", number=False), Head("reached", "trials"),
        Head("time to target", "s, 95 %"), Head("as", number=False), Head("log-rank p"),
    )  # fmt: skip
    rows = _rows(comparison, _target_cells)
    asked = any(side.condition.to_target for match in comparison.matches for _, side in _sides(comparison, match))
    part = Part(table=Table("target-table", "Time to the target by condition and run", heads, rows))
    said = ("Trials that did not reach the target count as longer than they lasted.",)
    return Section(
        name="target", title="Time to the target", said=said if asked else (), parts=(part,) if asked else ()
    )


def _target_cells(side: Side) -> tuple[Cell, ...]:
    found = side.condition.to_target
    if found is None:
        return (Cell(UNKNOWN),) * 4
    as_what = "median" if found.horizon_s is None else f"mean within {found.horizon_s:.1f} s"
    return (
        Cell(f"{found.reached} of {found.n}", found.reached / found.n),
        _between(found.time_s, found.low_s, found.high_s),
        text(as_what),
        number(side.versus.logrank_p if side.versus else None, ".3f"),
    )


def _path(comparison: Comparison) -> Section:
    heads = (Head("condition", number=False), Head("run", number=False), *(Head(group, "s a round") for group in ADDED))
    rows = _rows(comparison, lambda side: [number(side.parts_s.get(group), ".3f") for group in ADDED])
    known = any(side.parts_s for match in comparison.matches for _, side in _sides(comparison, match))
    part = Part(table=Table("path-table", "Critical path by condition and run", heads, rows))
    said = ("Where a round's time goes along its critical path: means over rounds, which add up to the mean round.",)
    return Section(name="path", title="Critical path", said=said if known else (), parts=(part,) if known else ())


def _network(comparison: Comparison) -> Section:
    trips = [
        {each.whole.client: each.whole.natural_rtt_ms for each in run.analysis.dataset.network.clients}
        for run in comparison.runs
    ]
    names = [name for name in dict.fromkeys(name for each in trips for name in each) if any(e.get(name) for e in trips)]
    heads = (Head("client", number=False), *(Head(run.name, "ms, 95 %") for run in comparison.runs))
    rows = tuple(Row((text(name), *(spread(each.get(name)) for each in trips))) for name in names)
    part = Part(table=Table("network-table", "Natural round trips by client and run", heads, rows))
    said = ("Natural round trips on an idle connection, medians.",)
    return Section(name="network", title="Network", said=said if rows else (), parts=(part,) if rows else ())
