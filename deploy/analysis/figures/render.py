"""Turns figures into files (svg, png, pdf) and into what a page needs to draw them; uses vl-convert, no browser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import vl_convert

from deploy.analysis.figures.palette import LIGHT, vega_config

if TYPE_CHECKING:
    from pathlib import Path

    from deploy.analysis.figures.figure import Figure

WIDTH_PX = 480
PNG_SCALE = 3


def save(figure: Figure, folder: Path) -> str:
    """Write `figure` as svg, png (3 times 96 dpi) and pdf (fonts embedded) into `folder`; return the svg."""
    svg: str = vl_convert.vegalite_to_svg(_printed(figure), allowed_base_urls=[])
    (folder / f"{figure.name}.svg").write_text(svg, encoding="utf-8")
    (folder / f"{figure.name}.png").write_bytes(vl_convert.svg_to_png(svg, scale=PNG_SCALE))
    (folder / f"{figure.name}.pdf").write_bytes(vl_convert.svg_to_pdf(svg))
    return svg


def _printed(figure: Figure) -> dict[str, Any]:
    return {
        **figure.spec,
        "description": figure.alt,
        "title": {"text": figure.title, "subtitle": figure.subtitle},
        "width": WIDTH_PX,
        "padding": 12,
        "config": vega_config(LIGHT, "white"),
    }


def on_page(figure: Figure) -> dict[str, Any]:
    """Return the specification for a page: as wide as its box, titled by the page, coloured by the page's scheme."""
    spec = {key: value for key, value in figure.spec.items() if key != "config"}
    return {
        **spec,
        "description": figure.alt,
        "width": "container",
        "autosize": {"type": "fit-x", "contains": "padding"},
        "padding": {"top": 4, "right": 8, "bottom": 8, "left": 4},
    }
