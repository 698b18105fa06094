"""Turns figures into files (svg, png, pdf) and into what a page needs to draw them; uses vl-convert, no browser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import vl_convert

from deploy.analysis.figures.figure import PANEL_PX, with_legends
from deploy.analysis.figures.palette import LIGHT, vega_config

if TYPE_CHECKING:
    from pathlib import Path

    from deploy.analysis.figures.figure import Figure

WIDTH_PX = 480
PNG_SCALE = 3


def save(figure: Figure, folder: Path) -> str:
    """Write `figure` as svg, png (3 times 96 dpi) and pdf (fonts embedded) into `folder`; return the svg."""
    return write(printed(figure), folder / figure.name)


def write(spec: dict[str, Any], stem: Path, png_scale: float = PNG_SCALE) -> str:
    """Draw a specification into `stem`.svg, .png and .pdf, whose fonts are embedded; return the svg.

    It is drawn once: from then on png and pdf take a tenth of a second together (vl-convert 1.9).
    """
    svg: str = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])
    stem.with_name(f"{stem.name}.svg").write_text(svg, encoding="utf-8")
    stem.with_name(f"{stem.name}.png").write_bytes(vl_convert.svg_to_png(svg, scale=png_scale))
    stem.with_name(f"{stem.name}.pdf").write_bytes(vl_convert.svg_to_pdf(svg))
    return svg


def printed(figure: Figure) -> dict[str, Any]:
    """Return the specification of a picture that stands alone: titled, on white."""
    return {
        "height": PANEL_PX,
        **with_legends(figure.spec, WIDTH_PX),
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
        "height": PANEL_PX,
        **spec,
        "description": figure.alt,
        "width": "container",
        "autosize": {"type": "fit-x", "contains": "padding"},
        "padding": {"top": 4, "right": 8, "bottom": 8, "left": 4},
    }
