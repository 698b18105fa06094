"""Scripts that the controller sends to a host: each one file, nothing installed.

Those in Python need the standard library alone, those for the shell POSIX and what every system brings: they run where
there is no Python yet. `source` gives the text that is sent.
"""

from __future__ import annotations

from importlib import resources


def source(name: str) -> str:
    """Return the text of one of this package's scripts: Python, unless the name has another ending."""
    file = name if "." in name else f"{name}.py"
    return resources.files(__name__).joinpath(file).read_text("utf-8")
