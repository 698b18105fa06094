"""Scripts that the controller sends to a host: Python (standard library only) or POSIX sh, nothing installed.

They run from standard input or `-c`; `source` gives the text that is sent, `program` that of one which needs others.
"""

from __future__ import annotations

from importlib import resources

# Puts modules where `import` finds them before it looks at any file.
_LOADER = """\
import sys
for name, text in {modules!r}:
    sys.modules[name] = type(sys)(name)
    exec(text, sys.modules[name].__dict__)
exec({main!r}, {{"__name__": "__main__"}})
"""


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
