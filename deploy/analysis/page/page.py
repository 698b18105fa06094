"""The report's page: one HTML file that works from file://, needs no network, and trusts no text.

The template is `page.html`; Jinja escapes every value in it. Only the chart library and the pictures, which are made
here, go in unescaped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import msgspec
import polars as pl
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from deploy.analysis.figures.palette import DARK, LIGHT, vega_config
from deploy.analysis.page.networkpage import network_section
from deploy.analysis.statistics.theory import ideal_s
from deploy.labels import UNKNOWN, named_text, seconds_text, setting_name, setting_text, signed, value_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from deploy.analysis.reading.rows import Dataset
    from deploy.analysis.statistics.conditions import Analysis, Condition

TEMPLATE = Path(__file__).with_name("page.html")
SHOWN_PROBLEMS = 50
SUFFIXES = ("svg", "png", "pdf")
"""Of the files that `render.save` writes beside the page."""


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """A figure as a page needs it: words, specification, and the drawn svg for readers without scripts."""

    name: str
    title: str
    subtitle: str
    caption: str
    alt: str
    spec: dict[str, Any]
    svg: str


class Drawings(msgspec.Struct, frozen=True, kw_only=True):
    """What is drawn on a page: the pictures, each also as files beside the page, and the script that draws them."""

    pictures: tuple[Picture, ...] = ()
    script: str = ""


def page(analysis: Analysis, headlines: Sequence[str], drawings: Drawings) -> str:
    """Return the page's HTML."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["glued"] = _glued
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        {
            "headlines": headlines,
            "network": network_section(analysis.dataset),
            **_look(drawings),
            **_numbers(analysis),
            **_origin(analysis.dataset),
        }
    )


def _glued(text: str) -> str:
    """Put a no-break space between a number and its unit."""
    return re.sub(r"(?<=[\d)]) (?=(?:s|ms|%|ppm|\N{MULTIPLICATION SIGN})(?!\w))", "\N{NO-BREAK SPACE}", text)


def _look(drawings: Drawings) -> dict[str, Any]:
    specs = {each.name: each.spec for each in drawings.pictures}
    configs = {
        "light": vega_config(LIGHT, "transparent"),
        "dark": vega_config(DARK, "transparent"),
    }
    return {
        "light": LIGHT,
        "dark": DARK,
        "figures": [{**msgspec.structs.asdict(each), "svg": Markup(each.svg)} for each in drawings.pictures],  # noqa: S704 - made here
        "suffixes": SUFFIXES,
        "script": Markup(drawings.script),  # noqa: S704 - the chart library, not data
        "charts": {"configs": configs, "specs": specs},
    }


def _numbers(analysis: Analysis) -> dict[str, Any]:
    keys = list(dict.fromkeys(chain.from_iterable(each.plan.settings for each in analysis.conditions)))
    return {
        "swept": [setting_name(key) for key in keys],
        "conditions": [{"swept": _swept(each, keys), "cells": _cells(each)} for each in analysis.conditions],
        "clients": analysis.clients,
        "baselines": list(_baselines(analysis)),
        "completed": bool(analysis.dataset.complete),
        "starred": any(each.censored for each in analysis.conditions),
        "accounted": _accounted(analysis.dataset),
        "spread": _spread(analysis.dataset),
        "delay_check": delay_check(analysis.dataset),
    }


def _swept(condition: Condition, keys: Sequence[str]) -> list[str]:
    plan = condition.plan
    return [setting_text(plan, key) if key in plan.settings else UNKNOWN for key in keys]


def _cells(condition: Condition) -> list[str]:
    gap_pct = condition.difference_pct
    return [
        f"{condition.complete} / {condition.planned}",
        UNKNOWN if condition.rounds is None else f"{condition.rounds:g}",
        UNKNOWN if condition.accuracy is None else f"{condition.accuracy:.3f}",
        seconds_text(condition.total_s) if not condition.censored else f"{seconds_text(condition.total_s)} *",
        seconds_text(condition.std_s),
        seconds_text(condition.expected_s),
        signed(seconds_text(condition.difference_s)),
        UNKNOWN if gap_pct is None else signed(f"{gap_pct:.1f}"),
        seconds_text(condition.drawn_s),
        seconds_text(condition.ideal_s),
    ]


def _baselines(analysis: Analysis) -> Iterator[dict[str, Any]]:
    for key, base in analysis.baselines.items():
        values = json.loads(key)
        group = ", ".join(named_text(name, value) for name, value in values.items())
        known = {"c": f"{base.round_s:.3f}", "rounds": base.rounds, "source": base.source} if base else {"c": ""}
        yield {"group": group, **known}


def _accounted(dataset: Dataset) -> str:
    pairs = [(trial.total_s, ideal_s(trial)) for trial in dataset.complete]
    total = sum(total_s or 0.0 for total_s, _ in pairs)
    ideal = sum(part for _, part in pairs if part is not None)
    if not total or any(part is None for _, part in pairs):
        return ""
    if not all(each.covered for trial in dataset.complete for each in trial.rounds):
        return f"All completed trials together: at least {seconds_text(ideal)} s of {seconds_text(total)} s."
    rest = f"the other {100 * (1 - ideal / total):.1f} % are network, coordination and evaluation"
    return f"All completed trials together: {seconds_text(ideal)} s of {seconds_text(total)} s; {rest}."


def _spread(dataset: Dataset) -> str:
    """Say how unequal the clients' compute times are, for theory takes them to be equal."""
    medians = _compute_times(dataset)
    if len(medians) < 2:  # noqa: PLR2004 - one client cannot be unequal
        return ""
    fast, slow = min(medians, key=medians.__getitem__), max(medians, key=medians.__getitem__)
    return (
        f"Theory takes the clients to be equally fast; their median compute times went from"
        f" {medians[fast]:.3f} s ({fast}) to {medians[slow]:.3f} s ({slow})."
    )


def _compute_times(dataset: Dataset) -> dict[str, float]:
    """Return each client's median compute time."""
    known = dataset.works.drop_nulls("compute_s").group_by("client", maintain_order=True)
    return dict(known.agg(pl.col("compute_s").median()).iter_rows())


def delay_check(dataset: Dataset) -> str:
    """Return in words how far injected delays were from what was drawn; delays of 0 s do not count."""
    delayed = dataset.works.filter((pl.col("requested_s") != 0) & pl.col("measured_s").is_not_null())
    gaps_ms = (1000 * (delayed["measured_s"] - delayed["requested_s"]).abs()).to_list()
    if not gaps_ms:
        return "The app injected no delay." if dataset.network.linked else "No delay was injected."
    return (
        f"{len(gaps_ms)} delays were injected. Measured minus drawn: at most {max(gaps_ms):.2f} ms,"
        f" in the median {median(gaps_ms):.2f} ms (absolute values)."
    )


def _origin(dataset: Dataset) -> dict[str, Any]:
    manifest = dataset.manifest
    return {
        "manifest": manifest,
        "controller": _facts(manifest.versions),
        "phases": ", ".join(f"{name} {seconds:.1f} s" for name, seconds in manifest.phases_s.items()),
        "hosts": [
            {
                "name": name,
                "role": record.role,
                "versions": _facts(dataset.versions.get(name, {})),
                "facts": _facts(record.facts),
            }
            for name, record in manifest.hosts.items()
        ],
        "problems": dataset.problems,
        "limit": SHOWN_PROBLEMS,
        "parquet": any(trial.rounds for trial in dataset.trials),
        "messages": bool(dataset.messages.height),
    }


def _facts(facts: Mapping[str, Any]) -> str:
    """Write a mapping on one line; a mapping inside it in parentheses."""
    parts = (
        f"{key} ({_facts(value)})" if isinstance(value, Mapping) else f"{key} {value_text(value)}"
        for key, value in facts.items()
    )
    return ", ".join(parts) or UNKNOWN
