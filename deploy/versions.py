"""The controller's own versions, for the manifest."""

from __future__ import annotations

import importlib.metadata
import platform

PACKAGES = ("fieldlab", "fabric", "paramiko", "msgspec", "numpy", "polars", "altair", "uv")


def controller_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that drive and analyse."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}
