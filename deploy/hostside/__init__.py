"""Scripts that the controller sends to a host's own Python: standard library only, each one file, nothing installed.

They run from standard input or `-c`; `source` gives the text that is sent, `argv` the command that runs it.
"""

from __future__ import annotations

import functools
from importlib import resources

ISOLATED = ("-I", "-S")
"""Neither the current directory (the user's home), nor PYTHON… variables, nor site-packages."""


@functools.cache
def source(name: str) -> str:
    """Return the text of one of this package's scripts."""
    return resources.files(__name__).joinpath(f"{name}.py").read_text("utf-8")


def argv(python: str, name: str, *words: str) -> list[str]:
    """Return the command that runs one of the scripts with a host's Python."""
    return [python, *ISOLATED, "-c", source(name), *words]
