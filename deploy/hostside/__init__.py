"""Scripts that the controller sends to a host's own Python: standard library only, each one file, nothing installed.

They run from standard input or `-c`; `source` gives the text that is sent.
"""

from __future__ import annotations

from importlib import resources


def source(name: str) -> str:
    """Return the text of one of this package's scripts."""
    return resources.files(__name__).joinpath(f"{name}.py").read_text("utf-8")
