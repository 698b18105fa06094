"""Scripts that the controller sends to a host: Python (standard library only) or POSIX sh, each one file.

They run from standard input or `-c`; nothing is installed. `source` and `shell` give the text that is sent.
"""

from __future__ import annotations

from importlib import resources


def source(name: str) -> str:
    """Return the text of one of this package's Python scripts."""
    return resources.files(__name__).joinpath(f"{name}.py").read_text("utf-8")


def shell(name: str) -> str:
    """Return the text of one of this package's shell scripts."""
    return resources.files(__name__).joinpath(f"{name}.sh").read_text("utf-8")
