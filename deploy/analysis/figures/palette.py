"""How charts look: one Vega configuration for each colour scheme; colours of Okabe and Ito, safe for colour-blind eyes.

Source: M. Okabe and K. Ito, Color Universal Design (2008). Black and yellow are left out: one of them would vanish on
either background. On dark the light hues come first.
"""

from __future__ import annotations

from typing import Any, NamedTuple

BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"
PURPLE, ORANGE, SKY = "#CC79A7", "#E69F00", "#56B4E9"
GREY = "#8a9099"
PART_COLORS = (BLUE, VERMILLION, GREY)
"""Of a round's parts: each stands out from both papers, so that they need no scheme of their own."""
FONT = "Helvetica Neue, Helvetica, Arial, Liberation Sans, sans-serif"


class Scheme(NamedTuple):
    """The colours of one scheme: text, quiet text, lines of axes, page, and the series in order."""

    ink: str
    quiet: str
    rule: str
    paper: str
    series: tuple[str, ...]


LIGHT = Scheme("#1a1d21", "#565d66", "#d9dde2", "#ffffff", (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY))
DARK = Scheme("#e8eaed", "#a9b0b8", "#3a4048", "#15181c", (SKY, ORANGE, GREEN, PURPLE, VERMILLION, BLUE))


def vega_config(scheme: Scheme, background: str) -> dict[str, Any]:
    """Return Vega-Lite's `config` for a scheme, on a CSS colour as `background`."""
    return {
        "background": background,
        "font": FONT,
        "view": {"stroke": None},
        "range": {"category": list(scheme.series)},
        "mark": {"color": scheme.series[0]},
        "title": {
            "anchor": "start", "color": scheme.ink, "fontSize": 15, "fontWeight": 600, "offset": 10, "frame": "group",
            "subtitleColor": scheme.quiet, "subtitleFontSize": 12, "subtitlePadding": 4,
        },
        "axis": {
            "labelColor": scheme.quiet, "titleColor": scheme.ink, "labelFontSize": 12, "titleFontSize": 12,
            "titleFontWeight": "normal", "titlePadding": 8, "gridColor": scheme.rule, "domainColor": scheme.rule,
            "tickColor": scheme.rule, "labelLimit": 200,
        },
        "legend": {
            "orient": "top", "direction": "horizontal", "labelColor": scheme.ink, "titleColor": scheme.ink,
            "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "titleOrient": "left",
            "symbolStrokeWidth": 2, "symbolSize": 220, "columnPadding": 14, "labelLimit": 330, "offset": 8,
            "layout": {"top": {"direction": "vertical", "anchor": "start", "margin": 6}},
        },
    }  # fmt: skip
