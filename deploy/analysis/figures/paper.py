"""Figures for a paper: one and two columns wide, text of 8 points at final size, no titles; captions beside them.

A pixel of Vega is a point of the pdf: what is 252 px wide is 3.5 inches, so nothing has to be scaled in the paper.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deploy.analysis.figures import catalogue, render
from deploy.analysis.figures.figure import LETTER_PX, with_legends
from deploy.analysis.figures.palette import LIGHT, vega_config

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from deploy.analysis.figures.figure import Figure
    from deploy.analysis.statistics.conditions import Analysis

COLUMNS_PT = {"1col": 252, "2col": 515.5}
"""3.5 and 7.16 inches, as journals of two columns have them (IEEE: 88.9 and 181.9 mm)."""
TEXT_PT = 8
_SHRUNK = TEXT_PT / 12
"""Figures are made for text of 12 pixels."""
_LENGTHS = ("strokeWidth", "size", "thickness", "fontSize", "dy", "cornerRadius", "strokeDash")
_AREAS = frozenset({"point", "circle"})
"""Marks whose `size` is an area."""
_NAMES_PT, _NUMBERS_PT = 70, 35
"""What labels left of a chart take, about: legends begin beside them."""
_FLAT = 0.6
"""A panel's height by its width in one column."""
_DPI = 300
CAPTIONS = "captions.tex"
_TEX = str.maketrans(
    {**{sign: f"\\{sign}" for sign in "&%$#_{}"}, "\\": r"\textbackslash{}", "~": r"\textasciitilde{}",
     "^": r"\textasciicircum{}", "\N{PLUS-MINUS SIGN}": r"$\pm$", "\N{MULTIPLICATION SIGN}": r"$\times$",
     "\N{MINUS SIGN}": "$-$"}
)  # fmt: skip


def write_paper(analysis: Analysis, folder: Path) -> tuple[Path, ...]:
    """Write every figure in both widths as pdf, svg and png into `folder`, and the captions; return the pdfs.

    A paper has no menu and no filter: figures show all conditions, a time line the trial that it starts with.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("figure-*.*"):
        old.unlink()
    figures = catalogue.figures(analysis)
    (folder / CAPTIONS).write_text(captions(figures), encoding="utf-8")
    stems = []
    for figure in figures:
        for name, width_pt in COLUMNS_PT.items():
            stem = folder / f"{figure.name}-{name}"
            render.write(for_paper(figure, width_pt), stem, png_scale=_DPI / 72)
            stems.append(stem.with_name(f"{stem.name}.pdf"))
    return tuple(stems)


def for_paper(figure: Figure, width_pt: float) -> dict[str, Any]:
    """Return the specification for a column that is `width_pt` points wide, labels and legends included."""
    labels_pt = _NAMES_PT if "height" in figure.spec else _NUMBERS_PT  # lanes have names
    spec = with_legends(_thinned(figure.spec), width_pt - labels_pt, LETTER_PX * _SHRUNK)
    panel_pt = _FLAT * COLUMNS_PT["1col"]
    return {
        **spec,
        "description": figure.alt,
        "width": width_pt,
        "height": round(_SHRUNK * spec["height"]) if "height" in spec else panel_pt,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "padding": {"left": 1, "right": 5, "top": 2, "bottom": 1},
        "config": _config(),
    }


def _thinned(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the specification with marks as much smaller as the text is."""
    if "layer" in spec:
        return {**spec, "layer": [_thinned(each) for each in spec["layer"]]}
    mark = spec["mark"]
    smaller = {name: _smaller(mark, name) for name in _LENGTHS if name in mark}
    return {**spec, "mark": {**mark, **smaller}, "encoding": _dashed(spec["encoding"])}


def _dashed(encoding: dict[str, Any]) -> dict[str, Any]:
    """Return the encoding with dashes as much shorter."""
    dash = encoding.get("strokeDash")
    if dash is None:
        return encoding
    shorter = [[_SHRUNK * each for each in lengths] for lengths in dash["scale"]["range"]]
    return {**encoding, "strokeDash": {**dash, "scale": {**dash["scale"], "range": shorter}}}


def _smaller(mark: dict[str, Any], name: str) -> Any:  # noqa: ANN401 - as Vega-Lite has it
    value = mark[name]
    if isinstance(value, list):
        return [_SHRUNK * each for each in value]
    return value * (_SHRUNK**2 if name == "size" and mark["type"] in _AREAS else _SHRUNK)


def _config() -> dict[str, Any]:
    config = vega_config(LIGHT, "white")
    text = {"labelFontSize": TEXT_PT, "titleFontSize": TEXT_PT}
    thin = {"gridWidth": 0.4, "domainWidth": 0.6, "tickWidth": 0.6, "tickSize": 3, "titlePadding": 3, "labelPadding": 2}
    dark = {"domainColor": LIGHT.quiet, "tickColor": LIGHT.quiet, "labelColor": LIGHT.ink}
    small = {"symbolSize": 55, "columnPadding": 8, "rowPadding": 1, "offset": 4, "symbolStrokeWidth": 1.2}
    return {
        **config,
        "axis": {**config["axis"], **text, **thin, **dark, "labelLimit": 110},
        "legend": {**config["legend"], **text, **small, "labelLimit": 200},
    }


def captions(figures: Sequence[Figure]) -> str:
    """Return LaTeX: a figure environment for each, in one column, with its caption and its label."""
    return "\n".join(
        "\\begin{figure}\n  \\centering\n"
        f"  \\includegraphics{{{each.name}-1col.pdf}}\n"
        f"  \\caption{{{_escaped(f'{each.title}. {each.subtitle}. {each.caption} {each.terms}'.strip())}}}\n"
        f"  \\label{{fig:{each.name.removeprefix('figure-')}}}\n"
        "\\end{figure}\n"
        for each in figures
    )


def _escaped(text: str) -> str:
    return text.translate(_TEX)
