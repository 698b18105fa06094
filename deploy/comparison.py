"""Prints a comparison of runs on the terminal: what differs between them, conditions side by side, the page's path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

    from deploy.analysis.comparing.match import Comparison, Side
    from deploy.analysis.comparing.write import Written


def print_comparison(console: Console, written: Written) -> None:
    """Print it; the first run is what the others are compared with."""
    comparison = written.comparison
    if comparison.differing:
        console.print(differing_table(comparison))
    console.print(times_table(comparison))
    for line in written.headlines:
        console.print(Text(line))
    console.print(Text.assemble(("comparison  ", "bold"), str(written.page)), soft_wrap=True)


def differing_table(comparison: Comparison) -> Table:
    """Return the table of what differs, a column for each run."""
    table = Table(box=None, padding=(0, 1), header_style="bold")
    for heading in ("differs", *(run.name for run in comparison.runs)):
        table.add_column(Text(heading), overflow="fold")
    for row in comparison.differing:
        table.add_row(Text(row.what), *map(Text, row.values))
    return table


def times_table(comparison: Comparison) -> Table:
    """Return the table of conditions: each run's time and accuracy, the difference and the ratio with intervals."""
    table = Table(box=None, padding=(0, 1), header_style="bold")
    table.add_column("condition")
    table.add_column("run")
    for heading in ("trials", "accuracy", "time s", "difference s (95 %)", "ratio (95 %)"):
        table.add_column(heading, justify="right")
    for match in comparison.matches:
        label = match.label
        for run, side in zip(comparison.runs, match.sides, strict=True):
            if side is not None:
                table.add_row(Text(label), Text(run.name), *_cells(side))
                label = ""
    return table


def _cells(side: Side) -> tuple[str, ...]:
    one, versus = side.condition, side.versus
    gap, times = (versus.difference, versus.ratio) if versus else (None, None)
    return (
        f"{one.complete - one.censored}",
        "-" if one.accuracy is None else f"{one.accuracy:.3f}",
        "-" if one.total_s is None else f"{one.total_s:.2f}",
        "" if gap is None else f"{gap.value:+.2f}{_interval(gap.low, gap.high, '+.2f')}",
        "" if times is None else f"{times.value:.2f}{_interval(times.low, times.high, '.2f')}",
    )


def _interval(low: float | None, high: float | None, form: str) -> str:
    return "" if low is None or high is None else f" ({low:{form}} to {high:{form}})"
