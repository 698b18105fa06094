"""Scripts that the controller sends to a host: Python (standard library only) or POSIX sh, nothing installed.

They run from standard input or `-c`; `source` gives the text that is sent, `program` that of one which needs others,
`argv` the command that runs one.
"""

from __future__ import annotations

import functools
from importlib import resources

ISOLATED = ("-I", "-S")
"""Neither the current directory (the user's home), nor PYTHON… variables, nor site-packages."""

# Puts modules where `import` finds them before it looks at any file.
_LOADER = """\
import sys
for name, text in {modules!r}:
    sys.modules[name] = type(sys)(name)
    exec(text, sys.modules[name].__dict__)
exec({main!r}, {{"__name__": "__main__"}})
"""


@functools.cache
def source(name: str) -> str:
    """Return the text of one of this package's scripts: Python, unless the name has another ending."""
    return _text(__name__, name)


def program(name: str, *modules: str) -> str:
    """Return the text of a script together with modules (by their full names, in this order) that it imports."""
    texts = tuple((module, _text(*module.rsplit(".", 1))) for module in modules)
    return _LOADER.format(modules=texts, main=source(name))


def _text(package: str, name: str) -> str:
    file = name if "." in name else f"{name}.py"
    return resources.files(package).joinpath(file).read_text("utf-8")


def argv(python: str, name: str, *words: str) -> list[str]:
    """Return the command that runs one of the scripts with a host's Python."""
    return [python, *ISOLATED, "-c", source(name), *words]
