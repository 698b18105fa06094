"""A Flower app's `pyproject.toml`, read into a frozen type: components, config, dependencies. Imports no app.

Everything that is wrong is an InputError that names file, line (as far as the text tells) and key.
"""

from __future__ import annotations

import math
import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from packaging.requirements import InvalidRequirement, Requirement

from deploy.errors import InputError
from deploy.yamlfile import read_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from flcommon.job import ConfigValue

PYPROJECT = "pyproject.toml"
APP = "tool.flwr.app"
_INT64 = 2**63
_TOML_PLACE = re.compile(r" \(at line (\d+), column \d+\)$")
_TABLE = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]")
_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


@dataclass(frozen=True)
class Project:
    """What a pyproject.toml says of a Flower app.

    `components` maps clientapp and serverapp to `module:attribute`; `config` has dotted keys, and is None if the file
    has no such table; `include` and `exclude` are None where the file leaves them to Flower.
    """

    file: Path
    text: str
    components: Mapping[str, str]
    config: dict[str, ConfigValue] | None
    include: tuple[str, ...] | None
    exclude: tuple[str, ...] | None
    dependencies: tuple[str, ...]

    def error(self, key: str, message: str) -> InputError:
        """Return an InputError that names a key of this file."""
        return _error(self.file, self.text, key, message)


def read_project(file: Path) -> Project:
    """Read a file; raises InputError."""
    text = read_text(file)
    try:
        top = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = _TOML_PLACE.search(str(error))
        line = int(place[1]) if place else None
        raise InputError(file, f"is not TOML: {_TOML_PLACE.sub('', str(error))}", line=line) from error
    reader = _Reader(file, text, top)
    config = reader.table(f"{APP}.config")
    return Project(
        file=file,
        text=text,
        components={half: reader.component(half) for half in ("clientapp", "serverapp")},
        config=None if config is None else reader.flat(config, f"{APP}.config"),
        include=reader.patterns("fab-include"),
        exclude=reader.patterns("fab-exclude"),
        dependencies=reader.dependencies(),
    )


@dataclass(frozen=True)
class _Reader:
    file: Path
    text: str
    top: dict[str, Any]

    def table(self, key: str) -> dict[str, Any] | None:
        """Return a table by its dotted name, None if it is not there."""
        found: Any = self.top
        for part in key.split("."):
            found = found.get(part)
            if found is None:
                return None
            if not isinstance(found, dict):
                raise self.error(key, f"must be a table, not {found!r}")
        return dict(found)

    def component(self, half: str) -> str:
        """Return a component's `module:attribute`."""
        key = f"{APP}.components.{half}"
        reference = (self.table(f"{APP}.components") or {}).get(half)
        if reference is None:
            raise self.error(key, 'is missing: where the app is, as in "my_app.client_app:app"')
        module, _, attribute = reference.partition(":") if isinstance(reference, str) else ("", "", "")
        if not _MODULE.fullmatch(module) or not _MODULE.fullmatch(attribute):
            raise self.error(key, f'must be of the form "my_app.client_app:app", not {reference!r}')
        return str(reference)

    def flat(self, table: Mapping[str, Any], above: str, prefix: str = "") -> dict[str, ConfigValue]:
        """Return a table with the keys of inner tables joined by dots, as Flower does it."""
        flat: dict[str, ConfigValue] = {}
        for name, value in table.items():
            key = f"{above}.{name}"
            if isinstance(value, dict):
                flat.update(self.flat(value, key, f"{prefix}{name}."))
                continue
            self._check_value(key, value)
            flat[f"{prefix}{name}"] = value
        return flat

    def _check_value(self, key: str, value: object) -> None:
        if not isinstance(value, bool | int | float | str):
            raise self.error(key, f"must be a number, text, true or false (Flower's rule), not {value!r}")
        if isinstance(value, float) and not math.isfinite(value):
            raise self.error(key, "must be a finite number: a job file, which is JSON, can hold no other")
        if isinstance(value, int) and not -_INT64 <= value < _INT64:
            raise self.error(key, "is too large a number: Flower's have 64 bits")

    def patterns(self, name: str) -> tuple[str, ...] | None:
        """Return fab-include or fab-exclude; Flower allows neither an empty list nor an empty pattern."""
        value = (self.table(APP) or {}).get(name)
        if value is None:
            return None
        if not isinstance(value, list) or not value or not all(isinstance(one, str) and one.strip() for one in value):
            raise self.error(f"{APP}.{name}", 'must be a list of patterns that is not empty, such as ["**/*.py"]')
        return tuple(value)

    def dependencies(self) -> tuple[str, ...]:
        """Return [project.dependencies], each of which is a requirement specifier."""
        key = "project.dependencies"
        lines = (self.table("project") or {}).get("dependencies", [])
        if not isinstance(lines, list):
            raise self.error(key, 'must be a list, such as ["numpy>=1.26"]')
        for line in lines:
            try:
                Requirement(line)
            except (InvalidRequirement, TypeError, AttributeError) as error:
                raise self.error(key, f'{line!r} is no requirement such as "numpy>=1.26"') from error
        return tuple(lines)

    def error(self, key: str, message: str) -> InputError:
        return _error(self.file, self.text, key, message)


def _error(file: Path, text: str, key: str, message: str) -> InputError:
    return InputError(file, message, line=_line_of(text, key), key=key)


def _line_of(text: str, key: str) -> int | None:
    """Return the line of a key, else that of the innermost table above it; tomllib does not tell. None: nowhere."""
    best: tuple[int, int] | None = None
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        header = _TABLE.match(line)
        if header:
            table = header[1].replace('"', "").replace(" ", "")
            name = table
        else:
            left = line.partition("=")[0].strip().replace('"', "") if "=" in line else None
            name = f"{table}.{left}" if left and table else left or ""
        if name and (key == name or key.startswith(f"{name}.")) and (best is None or len(name) > best[0]):
            best = (len(name), number)
    return best[1] if best else None
