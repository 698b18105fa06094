"""What a figure is, and what all of them share: rows as inline data, the filter by condition, legends and sizes.

Every figure is a single view or layers of one: only such a view is as wide as the box of a page that it stands in.
Colours come from the configuration's ranges (see `palette`) or stand out from both papers, so that a page can exchange
its scheme without touching a specification.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import altair as alt
import msgspec
import polars as pl

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from deploy.analysis.statistics.conditions import Analysis

ROW_PX, PANEL_PX = 22, 300
WIDE = 30
"""A scale is logarithmic where the largest is as many times the smallest."""
FAR = 500
"""Of a larger span only the powers of ten fit on a phone."""
SHOWN, ALL = "shown_condition", "all"
"""The signal that a page sets to a condition's label, and its value for all of them."""
SQUARE = "square"
"""A symbol of what fills areas: as strong as they are."""
MOST_CLIENTS = 40
"""More rows than this nobody reads: figures with a row a client show those that matter most."""
_SIGNIFICANT = 6
_LETTER_PX, _LEGEND_PX, _BOX_PX, _SYMBOL_LETTERS = "letter_px", "legend_px", "box_px", 5
_BROAD_PX, _SHORT = 450, 18
"""In a narrower box labels of more letters take two lines: bars would have no room."""
LETTER_PX = 6.6
"""How wide a letter of a legend is, in the mean."""

Rows: TypeAlias = list[dict[str, Any]]
Chart: TypeAlias = alt.Chart | alt.LayerChart


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """A figure: file name without suffix, title, notes, and specification.

    `caption` says how to read it, `use` what a reader can do with it on a page, `terms` what its words mean, which a
    page says in a table, `alt` what is to be seen.
    """

    name: str
    title: str
    subtitle: str
    caption: str
    alt: str
    use: str = ""
    terms: str = ""
    spec: dict[str, Any]


def labels(analysis: Analysis) -> dict[int, str]:
    """Return the conditions' labels by number, in the order of the plan."""
    return {each.plan.condition: each.label for each in analysis.conditions}


def condition_of_trial(analysis: Analysis) -> pl.Expr:
    """Return the number of the condition that a row's `trial` belongs to; null for the warm-up, and between trials."""
    plans = {trial.plan.index: trial.plan.condition for trial in analysis.dataset.trials}
    return pl.col("trial").replace_strict(plans, default=None, return_dtype=pl.Int64)


def rows_of(frame: pl.DataFrame) -> Rows:
    """Return a frame's rows, with as many digits as a picture can show."""
    floats = pl.selectors.float()
    return frame.with_columns(floats.round_sig_figs(_SIGNIFICANT)).to_dicts()


class Named(str):  # noqa: SLOT000 - rows are its attribute
    """The name of a data set that brings its rows along: plain data Altair copies and checks at every step."""

    rows: Rows

    def __new__(cls, rows: Rows) -> Self:
        """Name rows after what is in them."""
        name = super().__new__(cls, "rows-" + hashlib.blake2s(msgspec.json.encode(rows), digest_size=6).hexdigest())
        name.rows = rows
        return name


def data(rows: Rows) -> alt.NamedData:
    """Return rows as the data of a chart, from which `spec_of` makes its specification."""
    return alt.NamedData(name=Named(rows))


def in_all_and_each(frame: pl.DataFrame, names: dict[int, str]) -> pl.DataFrame:
    """Return the rows twice, `condition` once as "all" and once as its label; those without one only in all."""
    number = pl.col("condition")
    known = frame.filter(number.is_in(list(names)))
    named = known.with_columns(number.replace_strict(names, return_dtype=pl.String))
    return pl.concat([frame.with_columns(condition=pl.lit(ALL)), named])


def layered(*charts: alt.Chart) -> alt.LayerChart:
    """Return charts one over the other."""
    return alt.LayerChart(layer=list(charts))


def one_at_a_time(chart: Chart) -> Chart:
    """Let a chart show the rows of one `condition`, at first of "all"."""
    return _filtered(chart, f"datum.condition == {SHOWN}")


def all_or_one(chart: Chart) -> Chart:
    """Let a chart show the rows of all conditions, or of one; those without one stay."""
    return _filtered(chart, f"{SHOWN} == '{ALL}' || datum.condition == {SHOWN} || datum.condition == null")


def fading(chart: Chart) -> Chart:
    """Let a chart show all conditions, of which `faded` marks step back once a page chose another one."""
    return chart.add_params(alt.param(name=SHOWN, value=ALL))


def _filtered(chart: Chart, expression: str) -> Chart:
    shown = alt.param(name=SHOWN, value=ALL)
    if isinstance(chart, alt.LayerChart):  # a layer with data of its own inherits no filter
        layers = (each.transform_filter(expression) for each in chart.layer)
        return alt.LayerChart(layer=list(layers), data=chart.data).add_params(shown)
    return chart.transform_filter(expression).add_params(shown)


def faded(opacity: float) -> dict[str, Any]:
    """Return an opacity, of fill or stroke, that lets the marks of other conditions than the shown one step back.

    Not of the whole mark: each such one would be drawn on a layer of its own, which takes a second in a PNG.
    """
    test = f"{SHOWN} == '{ALL}' || datum.condition == {SHOWN}"
    return {"condition": {"test": test, "value": opacity}, "value": opacity / 6}


def legend(names: Sequence[str], title: str = "", symbol: str = "", *, only: bool = False) -> alt.Legend:
    """Return a legend with as many of `names` side by side as there is room for, beside the title.

    `symbol` is Vega's name of one, where the mark's own does not do; `only` leaves out what the scale has besides.
    """
    letters = max(map(len, names), default=1) + _SYMBOL_LETTERS
    room = f"{_LEGEND_PX} - {_LETTER_PX} * {len(title)}"
    columns = alt.ExprRef(f"max(1, floor(({room}) / ({_LETTER_PX} * {letters})))")
    return alt.Legend(
        columns=columns,
        values=list(names) if only else alt.Undefined,
        symbolType=symbol or alt.Undefined,
        symbolOpacity=1 if symbol == SQUARE else alt.Undefined,
    )


def conditions_axis(names: Iterable[str], limit_px: int | None = None) -> alt.Axis:
    """Return an axis of conditions; long names of two parts have two lines where the figure is narrow."""
    limit = alt.Undefined if limit_px is None else limit_px
    halves = [name.split(", ") for name in names]
    if max(map(len, map("".join, halves)), default=0) <= _SHORT or any(len(each) > 2 for each in halves):  # noqa: PLR2004
        return alt.Axis(labelLimit=limit)
    narrow = f"{_BOX_PX} < {_BROAD_PX}"
    return alt.Axis(
        labelExpr=f"{narrow} ? split(datum.label, ', ') : datum.label",
        labelFontSize=alt.ExprRef(f"{narrow} ? 10 : round(12 * {_LETTER_PX} / {LETTER_PX})"),
        labelLineHeight=11,
        labelOffset=alt.ExprRef(f"{narrow} ? -5 : 0"),
        labelLimit=limit,
    )


def spec_of(chart: Chart, height: float | None = None) -> dict[str, Any]:
    """Return the specification as plain data, with the rows of all its layers; without lanes it has no height yet."""
    sizes = {_LETTER_PX: LETTER_PX, _LEGEND_PX: 1, _BOX_PX: 2 * _BROAD_PX}
    params = [alt.param(name=name, value=value) for name, value in sizes.items()]
    spec: dict[str, Any] = chart.add_params(*params).to_dict()
    used = [each["data"]["name"] for each in (spec, *spec.get("layer", ())) if "data" in each]
    own = {"height": height} if height is not None else {}
    return {**spec, **own, "datasets": {str(name): name.rows for name in used}}


def with_legends(spec: dict[str, Any], width_px: float, letter_px: float = LETTER_PX) -> dict[str, Any]:
    """Return the specification with legends for a width that is known beforehand, of letters that wide.

    Without that they have one entry a row, until whoever draws the chart sets the signal `legend_px`.
    """
    known: dict[str, float] = {_LEGEND_PX: width_px, _LETTER_PX: letter_px}
    params = [
        {"name": each["name"], "value": known[each["name"]]} if each["name"] in known else each
        for each in spec.get("params", ())
    ]
    return {**spec, "params": params}


class Span(msgspec.Struct, frozen=True):
    """From where to where times reach that are to be compared; logarithmic where that is decades."""

    low: float
    high: float

    @property
    def log(self) -> bool:
        """Whether its scale is logarithmic."""
        return self.low > 0 and self.high > WIDE * self.low

    @property
    def floor(self) -> float | None:
        """The least that its scale can show, if it is logarithmic: what is smaller has to be drawn there."""
        return self.low / 1.2 if self.log else None

    @property
    def scale(self) -> alt.Scale:
        """Its scale."""
        if not self.log:
            return alt.Scale(zero=False)
        return alt.Scale(type="log", domain=[self.floor, self.high * 1.05], clamp=True, nice=False)

    @property
    def axis(self) -> alt.Axis:
        """Its axis: of a logarithmic one only the powers of ten, or also their doubles and halves."""
        if not self.log:
            return alt.Axis(tickCount=5, labelOverlap=True)
        digits = (1,) if self.high > FAR * self.low else (1, 2, 5)
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        values = [digit * 10**power for power in powers for digit in digits]
        within = [value for value in values if (self.floor or 0.0) <= value <= self.high]
        return alt.Axis(values=within, format="~g")  # a value outside would be labelled at the edge


def most(names: Sequence[str], weights: dict[str, float]) -> list[str]:
    """Return the names, in their order; of more than `MOST_CLIENTS`, those with the largest weights."""
    heaviest = sorted(names, key=lambda name: -weights.get(name, 0.0))[:MOST_CLIENTS]
    return [name for name in names if name in set(heaviest)]


def left_out(shown: Sequence[str], names: Sequence[str], why: str) -> str:
    """Say how many clients are not shown, with a space before it; nothing where none is."""
    return f" {len(shown)} of {len(names)} clients are shown: {why}." if len(shown) < len(names) else ""


def cut_words(lows: Iterable[float | None]) -> str:
    """Say that intervals of times end at zero because none is less, as the end of a sentence; nothing if none does."""
    return ", cut at 0" if any(low == 0 for low in lows) else ""


def whole_numbers(last: int) -> list[int]:
    """Return few enough whole numbers from 1 to `last` for an axis."""
    step = max(1, round(last / 8))
    return [1, *range(step, last + 1, step)] if step > 1 else list(range(1, last + 1))
