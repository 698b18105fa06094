"""Tables of the page as plain rows: what each cell shows, and the number by which it sorts; the template draws them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from deploy.labels import MINUS, UNKNOWN, fixed, signed, span_text

if TYPE_CHECKING:
    from deploy.analysis.statistics.interval import Interval


class Head(msgspec.Struct, frozen=True):
    """A column's heading, and in small print its unit or what it counts; a `wide` column has long text."""

    text: str
    note: str = ""
    number: bool = True
    wide: bool = False


class Cell(msgspec.Struct, frozen=True):
    """What is shown; `value` is what a column of numbers sorts by, None sorts last."""

    text: str
    value: float | None = None


class Row(msgspec.Struct, frozen=True):
    """A row; the filter hides it while another than its `condition` (a label) is shown; without one it stays."""

    cells: tuple[Cell, ...]
    condition: str | None = None


class Table(msgspec.Struct, frozen=True):
    """A table: its id on the page, what it is called for who cannot see it, headings and rows."""

    name: str
    label: str
    heads: tuple[Head, ...]
    rows: tuple[Row, ...]


def text(words: str) -> Cell:
    """Return a cell of words."""
    return Cell(words)


def number(value: float | None, style: str = "", unit: str = "") -> Cell:
    """Return a cell of a number, written by `style` or as `short` does; a dash if it is not known."""
    if value is None:
        return Cell(UNKNOWN)
    written = f"{value:{style}}".replace("-", MINUS) if style else short(value)
    return Cell(written + unit, value)


def difference(value: float | None, style: str = ".2f") -> Cell:
    """Return a cell of a number that always has its sign."""
    return Cell(UNKNOWN) if value is None else Cell(signed(f"{value:{style}}"), value)


def short(value: float | None) -> str:
    """Write a number with as many digits as are worth reading: hundredths below 10, tenths below 1000, none above."""
    if value is None:
        return UNKNOWN
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 1000 else 0  # noqa: PLR2004 - as the docstring says
    return fixed(value, digits)


def spread(found: Interval | None) -> Cell:
    """Return a cell of a median with its interval."""
    if found is None:
        return Cell(UNKNOWN)
    middle = short(found.median)
    known = found.low is not None and found.high is not None
    return Cell(f"{middle} ({span_text(short(found.low), short(found.high))})" if known else middle, found.median)
