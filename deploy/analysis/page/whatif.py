"""The page's section on what if: how long training would have taken without one thing, replayed from the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from deploy.analysis.account.replay import CHANGES, WITHOUT_HOST, WITHOUT_HOST_ABOUT
from deploy.analysis.page.sections import Part, Section
from deploy.analysis.page.tables import Cell, Head, Row, Table, difference, number, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from deploy.analysis.statistics.conditions import Analysis

_CHANGE, _CONDITION = Head("change", number=False), Head("condition", number=False)
_HEADS = (Head("measured", "s a trial"), Head("replayed", "s"), Head("saved", "s"), Head("saved", "%"))
_ASSUMED = (
    "Each round is replayed with the change and all else as it was; it ends when the client is done that is last then."
    " No replay knows what a change does to another thing: a processor that clients share, TCP, what is learnt."
)


def what_if(analysis: Analysis) -> Section:
    """Return the section on counterfactuals, over all conditions and for each."""
    frame, title = analysis.account.what_if, "What if"
    whole = frame.filter(pl.col("condition").is_null())
    if whole.is_empty():
        return Section(name="what-if", title=title)
    rows = tuple(Row((text(_name(row)), *_cells(row))) for row in whole.iter_rows(named=True))
    parts = (
        Part(table=Table("what-if-all", title, (_CHANGE, *_HEADS), rows), notes=(_ASSUMED,)),
        *_by_condition(analysis),
        _meanings(),
    )
    return Section(name="what-if", title=title, parts=parts)


def _name(row: Mapping[str, Any]) -> str:
    return row["change"] if row["host"] is None else f"without {row['host']}"


def _cells(row: Mapping[str, Any]) -> tuple[Cell, ...]:
    return (
        number(row["measured_s"], ".2f"),
        number(row["replayed_s"], ".2f"),
        difference(row["saved_s"]),
        difference(row["saved_pct"], ".1f"),
    )


def _by_condition(analysis: Analysis) -> Iterator[Part]:
    labels = {each.plan.condition: each.label for each in analysis.conditions}
    own = analysis.account.what_if.filter(pl.col("condition").is_not_null())
    if len(labels) > 1:
        rows = tuple(_row(row, labels[row["condition"]]) for row in own.iter_rows(named=True))
        table = Table("what-if-conditions", "What if, by condition", (_CONDITION, _CHANGE, *_HEADS), rows)
        yield Part(table=table, title="What if, by condition", folded=True)


def _row(row: Mapping[str, Any], label: str) -> Row:
    return Row((text(label), text(_name(row)), *_cells(row)), label)


def _meanings() -> Part:
    heads = (_CHANGE, Head("what it takes away, and what it assumes", number=False, wide=True))
    rows = tuple(Row((text(each.name), text(each.about))) for each in CHANGES)
    left_out = Row((text(WITHOUT_HOST), text(WITHOUT_HOST_ABOUT)))
    title = "What the changes assume"
    return Part(table=Table("what-if-changes", title, heads, (*rows, left_out)), title=title, folded=True)
