"""What must be installed on a host: what this project's own metadata asks for, and what the app's does."""

from __future__ import annotations

import importlib.metadata
import re
from functools import cache
from typing import TYPE_CHECKING

from packaging.utils import canonicalize_name

from deploy.facts import NEEDED, app_needs

if TYPE_CHECKING:
    from packaging.requirements import Requirement

    from deploy.app import App

DISTRIBUTIONS = {"grpc": "grpcio"}
"""Distributions that are not named as the package that is imported."""
_ALWAYS = (*NEEDED, "psutil")
_NAME = re.compile(r"[A-Za-z0-9._-]+")


def requirements(app: App) -> tuple[str, ...]:
    """Return what flserver, flclient and an app need, as requirement specifiers, sorted.

    What both the toolkit and the app ask for has to suit both: where no marker is in the way, it is one line.
    """
    known = _own_requirements()
    lines = {name: known[name] for name in map(distribution, (*_ALWAYS, *app_needs(app)))}
    for one in app.requirements():
        name = canonicalize_name(one.name)
        plain = one.marker is None and one.url is None and (name == "flwr" or not one.extras)
        if name in lines and plain:
            lines[name] = ",".join(filter(None, (lines[name], str(one.specifier))))
        else:
            lines[_line(one, name)] = _line(one, name)
    return tuple(sorted(lines.values()))


def _line(requirement: Requirement, name: str) -> str:
    """Return it as uv and pip read it, without flwr's extras: they bring a simulation, which nobody runs here."""
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    text = str(requirement)
    return text.replace(extras, "", 1) if name == "flwr" and extras else text


def distribution(package: str) -> str:
    """Return the distribution that brings a package."""
    return DISTRIBUTIONS.get(package, package)


@cache
def _own_requirements() -> dict[str, str]:
    """Return {distribution: specifier} of all that this project names, whatever the extra."""
    specifiers = [line.partition(";")[0].strip() for line in importlib.metadata.requires("fieldlab") or ()]
    return {match[0].lower(): text for text in specifiers if (match := _NAME.match(text))}
