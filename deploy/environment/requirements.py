"""What must be installed on a host: named by import, asked for as this project's metadata (pyproject.toml) has it."""

from __future__ import annotations

import importlib.metadata
import re
from functools import cache

from deploy.facts import NEEDED, app_needs

DISTRIBUTIONS = {"grpc": "grpcio"}
"""Distributions that are not named as the package that is imported."""
_ALWAYS = (*NEEDED, "psutil")
_NAME = re.compile(r"[A-Za-z0-9._-]+")


def requirements(app: str) -> tuple[str, ...]:
    """Return what flserver, flclient and an app need, as requirement specifiers, sorted."""
    known = _own_requirements()
    return tuple(sorted(known[distribution(name)] for name in (*_ALWAYS, *app_needs(app))))


def distribution(package: str) -> str:
    """Return the distribution that brings a package."""
    return DISTRIBUTIONS.get(package, package)


@cache
def _own_requirements() -> dict[str, str]:
    """Return {distribution: specifier} of all that this project names, whatever the extra."""
    specifiers = [line.partition(";")[0].strip() for line in importlib.metadata.requires("fieldlab") or ()]
    return {match[0].lower(): text for text in specifiers if (match := _NAME.match(text))}
