"""How charts look: one Vega configuration for each colour scheme; colours of Okabe and Ito, safe for colour-blind eyes.

Source: M. Okabe and K. Ito, Color Universal Design (2008). Black and yellow are left out: one of them would vanish on
either background. On dark the light hues come first. What takes time has one hue wherever it is drawn: compute blue,
injected vermillion, network green, engine purple, server orange, evaluation sky blue.
"""

from __future__ import annotations

from typing import Any, NamedTuple

BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"
PURPLE, ORANGE, SKY = "#CC79A7", "#E69F00", "#56B4E9"
GREY, PALE = "#767d86", "#c3c9d0"
PART_COLORS = {
    "server": ORANGE, "queue": "#a4527f", "downlink": "#5cc9a7", "decode": PURPLE, "compute": BLUE,
    "injected": VERMILLION, "encode": "#e3a8c8", "uplink": GREEN, "aggregate": "#b07800", "evaluate": SKY,
    "unaccounted": GREY,
}  # fmt: skip
"""Of a round's parts: each stands out from both papers, so that they need no scheme of their own."""
SHARE_COLORS = {
    "compute": BLUE, "evaluate": SKY, "injected": VERMILLION, "network": GREEN, "engine": PURPLE, "waiting": PALE,
    "server": ORANGE, "unaccounted": GREY,
}  # fmt: skip
"""Of a client's round."""
CAUSE_COLORS = {"compute": BLUE, "injected": VERMILLION, "network": GREEN, "engine": PURPLE}
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
_RAMP = ("#0072b2", "#8b6aa3", "#d55e00", "#e69f00")
"""From cold to warm, and from dark to light, so that it holds in grey and for colour-blind eyes."""


def steps(count: int) -> list[str]:
    """Return so many colours for values that have an order; each stands out from both papers."""
    return [_between(place * (len(_RAMP) - 1) / max(1, count - 1)) for place in range(count)]


def _between(place: float) -> str:
    """Return the colour at a place of the ramp, which counts its colours."""
    left = min(int(place), len(_RAMP) - 2)
    one, other = (bytes.fromhex(_RAMP[at][1:]) for at in (left, left + 1))
    share = place - left
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(one, other, strict=True))


def vega_config(scheme: Scheme, background: str) -> dict[str, Any]:
    """Return Vega-Lite's `config` for a scheme, on a CSS colour as `background`."""
    return {
        "background": background,
        "font": FONT,
        "view": {"stroke": None},
        "range": {"category": list(scheme.series)},
        "mark": {"color": scheme.series[0]},
        "text": {"color": scheme.ink},
        "rule": {"color": scheme.quiet},
        "tick": {"color": scheme.ink},
        "title": {
            "anchor": "start", "color": scheme.ink, "fontSize": 15, "fontWeight": 600, "offset": 10, "frame": "group",
            "subtitleColor": scheme.quiet, "subtitleFontSize": 12, "subtitlePadding": 4,
        },
        "axis": {
            "labelColor": scheme.quiet, "titleColor": scheme.ink, "labelFontSize": 12, "titleFontSize": 12,
            "titleFontWeight": "normal", "titlePadding": 8, "gridColor": scheme.rule, "domainColor": scheme.rule,
            "tickColor": scheme.rule, "labelLimit": 180,
        },
        "axisQuantitative": {"labelSeparation": 6},
        "legend": {
            "orient": "top", "direction": "horizontal", "labelColor": scheme.ink, "titleColor": scheme.ink,
            "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal", "titleOrient": "left",
            "symbolStrokeWidth": 2, "symbolSize": 120, "columnPadding": 14, "labelLimit": 330, "offset": 8,
            "layout": {"top": {"direction": "vertical", "anchor": "start", "margin": 6}},
        },
    }  # fmt: skip
