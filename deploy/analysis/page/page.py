"""The report's page: one HTML file that works from file://, needs no network, and trusts no text.

The template is `page.html`; Jinja escapes every value in it. Only the chart library and the pictures, which are made
here, go in unescaped.
"""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from deploy.analysis.figures.palette import DARK, LIGHT, Scheme, vega_config
from deploy.analysis.page import account, conditions, network, origin
from deploy.analysis.page.sections import Picture, Section
from deploy.analysis.page.whatif import what_if

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from deploy.analysis.page.origin import Download
    from deploy.analysis.statistics.conditions import Analysis

FOLDER = Path(__file__).parent
SHOWN_PROBLEMS = 50
SUFFIXES = ("svg", "png", "pdf")
"""Of the files that `render.save` writes beside the page."""
STILL_LIMIT = 200_000
"""Characters of a picture that goes in a second time, for readers without scripts; a larger one is described."""
PLACES: Mapping[str, tuple[str, ...]] = {
    "time": ("figure-4", "figure-time"),
    "account": ("figure-account", "figure-hosts"),
    "stragglers": ("figure-stragglers",),
    "what-if": (),
    "timeline": ("figure-timeline",),
    "learning": ("figure-accuracy-rounds", "figure-accuracy-time"),
    "machines": ("figure-compute",),
    "network": ("figure-one-way", "figure-rtt", "figure-injected", "figure-injected-difference"),
    "clocks": ("figure-clocks",),
}
"""Where each figure belongs; what is in no list has a section of its own."""
TITLES = {
    "time": "Training time",
    "timeline": "Time line",
    "learning": "Accuracy",
    "machines": "Machines",
    "more": "More figures",
}
_OF_SCHEME = Scheme(
    "var(--ink)", "var(--quiet)", "var(--rule)", "var(--paper)",
    tuple(f"var(--series-{place})" for place in range(len(LIGHT.series))),
)  # fmt: skip
"""Charts take their colours from the page's style sheet, and so change with it, without being drawn anew."""


class Drawings(msgspec.Struct, frozen=True, kw_only=True):
    """What is drawn on a page: the pictures, each also as files beside the page, and the script that draws them."""

    pictures: tuple[Picture, ...] = ()
    script: str = ""


def page(analysis: Analysis, headlines: Sequence[str], drawings: Drawings, downloads: Sequence[Download] = ()) -> str:
    """Return the page's HTML."""
    dataset = analysis.dataset
    values = {
        "headlines": headlines,
        "sections": [each for each in _sections(analysis, drawings.pictures) if each.tells],
        "choices": list(dict.fromkeys(each.label for each in analysis.conditions)),
        "manifest": dataset.manifest,
        "problems": dataset.problems,
        "limit": SHOWN_PROBLEMS,
        "downloads": downloads,
        **conditions.method(analysis),
    }
    return written("page.html", values, drawings)


def written(template: str, values: Mapping[str, Any], drawings: Drawings) -> str:
    """Return the HTML of a template that is `page.html` or extends it; headlines, sections, choices are values."""
    return _environment().get_template(template).render({**values, **_look(drawings)})


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"glued": _glued, "made_here": Markup, "height": _height}
    return environment


def _glued(text: str) -> str:
    """Put no-break spaces between a number and its unit, and around the sign of equality."""
    text = re.sub(r"(?<=[\d)]) (?=(?:s|ms|%|ppm|Mbit/s|\N{MULTIPLICATION SIGN})(?!\w))", "\N{NO-BREAK SPACE}", text)
    return text.replace(" = ", "\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")


def _height(svg: str) -> str:
    """Return a picture's height in pixels: the page keeps the place of a chart that is not drawn yet."""
    found = re.search(r'height="(\d+)', svg)
    return found[1] if found else "0"


def _look(drawings: Drawings) -> dict[str, Any]:
    specs = {each.name: each.spec for each in drawings.pictures}
    return {
        "light": LIGHT,
        "dark": DARK,
        "suffixes": SUFFIXES,
        "still_limit": STILL_LIMIT,
        "library": drawings.script,
        "charts": {"config": vega_config(_OF_SCHEME, "transparent"), "specs": specs},
    }


def _sections(analysis: Analysis, pictures: Sequence[Picture]) -> Iterator[Section]:
    """Yield the sections in the order of the page."""
    dataset = analysis.dataset
    by_name = {each.name: each for each in pictures}
    placed = set(chain.from_iterable(PLACES.values()))
    written = (
        account.account(analysis),
        account.stragglers(analysis),
        what_if(analysis),
        network.network(dataset),
        network.clocks(dataset),
    )
    told = {each.name: each for each in written}
    for name, figures in PLACES.items():
        section = told.get(name) or Section(name=name, title=TITLES[name])
        own = tuple(by_name[each] for each in figures if each in by_name)
        yield msgspec.structs.replace(section, pictures=own)
    yield Section(name="more", title=TITLES["more"], pictures=tuple(p for p in pictures if p.name not in placed))
    yield conditions.conditions(analysis)
    if dataset.complete:
        yield Section(name="method", title="How it was computed", template="method.html")
    yield Section(name="problems", title="Problems", template="problems.html")
    yield origin.hosts(dataset)
    yield Section(name="downloads", title="Downloads", template="downloads.html")
