"""Prints a run's summary on the terminal: conditions, the answer in words, ideal and real time, the report's path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from deploy.labels import MINUS, fixed, span_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from deploy.analysis.report import Summary
    from deploy.analysis.statistics.conditions import Condition

NOTHING = "-"
"""Where nothing is known."""


def print_summary(console: Console, summary: Summary, wall_s: float | None) -> None:
    """Print it, what went wrong last; `wall_s` is how long the whole command took, where that is known."""
    if summary.conditions:
        console.print(conditions_table(summary))
    for line in summary.headlines:
        console.print(Text(line))
    console.print(Text(times(summary, wall_s)))
    console.print(Text.assemble(("report  ", "bold"), str(summary.page)), soft_wrap=True)
    if summary.figure is not None:
        console.print(Text.assemble(("figure  ", "bold"), str(summary.figure)), soft_wrap=True)
    for problem in summary.problems:
        console.print(Text(f"problem: {problem}", style="yellow"), soft_wrap=True)


def conditions_table(summary: Summary) -> Table:
    """Return the table of conditions: rounds, accuracy, time, an interval if there are repeats, expected time."""
    table = Table(box=None, padding=(0, 1), header_style="bold")
    table.add_column("condition")
    repeated = any(one.low_s is not None for one in summary.conditions)
    headings = ("trials", "rounds", "accuracy", "time s", *(("95 %",) if repeated else ()), "expected s", "difference")
    for heading in headings:
        table.add_column(heading, justify="right")
    for one in summary.conditions:
        table.add_row(Text(one.label), *_cells(one, repeated=repeated))
    return table


def _cells(one: Condition, *, repeated: bool) -> Iterator[str]:
    yield f"{one.complete}/{one.planned}"
    yield _number(one.rounds, ".3g")
    yield _number(one.accuracy, ".3f")
    yield _number(one.total_s, ".2f")
    if repeated:
        low, high = (None if end is None else fixed(end) for end in (one.low_s, one.high_s))
        yield NOTHING if low is None and high is None else span_text(low, high)
    yield _number(one.expected_s, ".2f")
    yield _number(one.difference_pct, "+.0f", " %")


def times(summary: Summary, wall_s: float | None) -> str:
    """Say how long it took, beside the sum of the rounds' ideal times (compute + injected delay)."""
    parts = [f"{summary.trials_complete} of {summary.trials_planned} trials"]
    if summary.ideal_s is not None:
        parts.append(f"ideal time of all rounds (compute + injected) {summary.ideal_s:.1f} s")
    parts.append(f"time in rounds {summary.total_s:.1f} s")
    if wall_s is not None:
        parts.append(f"whole command {wall_s:.1f} s")
    return " · ".join(parts)


def _number(value: float | None, form: str, unit: str = "") -> str:
    return NOTHING if value is None else f"{value:{form}}".replace("-", MINUS) + unit
