"""YAML read into a tree of nodes that know their file, line and dotted key; all that is wrong is an InputError.

Refuses what readers take in different ways: duplicate keys, tags, and plain words that YAML 1.1 and 1.2
understand differently (`no`, `010`, `12:30`). It knows nothing of inventories and playbooks:
`deploy.convert` gives nodes a type.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NoReturn

import yaml

from deploy.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

Scalar = bool | int | float | str | None
Plain = Scalar | list["Plain"] | dict[str, "Plain"]
"""What a YAML file can hold."""

MAX_NODES = 20_000
MAX_DEPTH = 32
NO_SECRETS = (
    "passwords and other secrets are never in YAML, where whoever reads the file reads them: log in with an SSH key"
    " (identity_file) or an SSH agent, or be asked for a password (ssh: {password: prompt})"
)
_ASKED_FOR = "prompt"
_INT64 = 2**63

_NULL = "tag:yaml.org,2002:null"
_TEXT = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:value")
_BOOLEAN = re.compile(r"true|True|TRUE|false|False|FALSE")
_SWITCH = {"on": True, "off": False}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_REAL = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_SECRET = re.compile(r"(.*[-_ ])?(pass|secret|token|api[-_ ]?key|private[-_ ]?key)|.*(password|passwd|passphrase)")
_AMBIGUOUS = {
    "bool": "is true or false to some readers of YAML and text to others: write true or false",
    "int": "is not the same number to all readers of YAML: write a plain decimal number",
    "float": "is not a finite decimal number: write a plain one",
    "timestamp": "is a date to some readers of YAML and text to others",
}


@dataclass(frozen=True, slots=True)
class Node:
    """A value with its place: `line` counts from 1, `key` is dotted from the top of the file ("" there)."""

    file: Path
    line: int
    key: str
    value: Scalar | list[Node] | dict[str, Node] = None

    def plain(self) -> Plain:
        """Return the value as plain data."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value

    def entries(self) -> dict[str, Node]:
        """Return the entries of a mapping; raises InputError if this is none."""
        if not isinstance(self.value, dict):
            raise self.error(f"must be a mapping (key: value), not {self.shown()}")
        return self.value

    def items(self) -> list[Node]:
        """Return the items of a list; raises InputError if this is none."""
        if not isinstance(self.value, list):
            raise self.error(f"must be a list [a, b, …], not {self.shown()}")
        return self.value

    def get(self, key: str) -> Node | None:
        """Return the entry `key` if this is a mapping that has it and its value is not null."""
        node = self.value.get(key) if isinstance(self.value, dict) else None
        return node if node is not None and node.value is not None else None

    def having(self, entries: Mapping[str, Node]) -> Node:
        """Return this node with other entries in the same place."""
        return Node(self.file, self.line, self.key, dict(entries))

    def path_of(self, name: str) -> str:
        """Return the dotted key of this mapping's entry `name`."""
        return f"{self.key}.{name}" if self.key else name

    def error(self, message: str) -> InputError:
        """Return an InputError that names this place."""
        return InputError(self.file, message, line=self.line, key=self.key)

    def shown(self) -> str:
        """Return the value as an error message shows it."""
        if self.value is None:
            return "empty"
        if isinstance(self.value, bool):
            return "true" if self.value else "false"
        if isinstance(self.value, str):
            return repr(self.value if len(self.value) <= 60 else f"{self.value[:60]}…")  # noqa: PLR2004 - one line
        if isinstance(self.value, int | float):
            return str(self.value)
        noun = "mapping" if isinstance(self.value, dict) else "list"
        return f"a {noun}" if self.value else f"an empty {noun}"


def read_text(file: Path) -> str:
    """Return a file's text; raises InputError if it is missing, a directory, unreadable or not UTF-8."""
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise InputError(file, "no such file") from None
    except IsADirectoryError:
        raise InputError(file, "is a directory, not a file") from None
    except OSError as error:
        raise InputError(file, f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(repr(str(file)), "is not a file name") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(file, "is not UTF-8 text", line=line) from error


def read_yaml(file: Path, *, switches: Collection[str] = ()) -> Node:
    """Return the mapping at the top of a YAML file; raises InputError for all that is wrong with the file.

    `switches` are dotted keys of what is on or off: there these words are true and false to everybody.
    """
    text = read_text(file)
    try:
        top = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        _fail(file, error)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise InputError(file, "holds a control character, which YAML does not allow", line=line) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise InputError(file, f"is not YAML: {error}") from error
    except RecursionError:
        raise InputError(file, f"is nested deeper than {MAX_DEPTH} levels") from None
    if top is None or top.tag == _NULL:
        raise InputError(file, "is empty")
    root = _Builder(switches).build(top, Node(file, _line(top), ""))
    root.entries()
    return root


def _fail(file: Path, error: yaml.MarkedYAMLError) -> NoReturn:
    mark = error.problem_mark or error.context_mark
    what = " ".join(part for part in (error.context, error.problem) if part)
    hint = " (indent with spaces, not tabs)" if "'\\t'" in what else ""
    raise InputError(file, f"is not YAML: {what}{hint}", line=mark.line + 1 if mark else None) from error


class _Loader(yaml.SafeLoader):
    """PyYAML's composer, without tags: they say again what quotes already say."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None) is not None:
            mark: yaml.Mark | None = event.start_mark  # type: ignore[assignment]  # stubs: or libyaml's Mark
            raise yaml.MarkedYAMLError(problem="tags (!…) are not used here", problem_mark=mark)
        return super().compose_node(parent, index)


class _Builder:
    """Turns PyYAML's nodes of one file into ours; aliases become copies, whose number and depth are bounded."""

    def __init__(self, switches: Collection[str] = ()) -> None:
        self.nodes = 0
        self.switches = switches

    def build(self, node: yaml.Node, place: Node, depth: int = 0) -> Node:
        """Return `node` and all below it, at `place`."""
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise InputError(place.file, f"holds more than {MAX_NODES} values", line=place.line)
        if depth > MAX_DEPTH:
            raise InputError(place.file, f"is nested deeper than {MAX_DEPTH} levels", line=place.line)
        if isinstance(node, yaml.MappingNode):
            return replace(place, value=self.mapping(node, place, depth + 1))
        if isinstance(node, yaml.SequenceNode):
            return replace(place, value=self.sequence(node, place, depth + 1))
        if place.key in self.switches and str(node.value).lower() in _SWITCH and getattr(node, "style", None) is None:
            return replace(place, value=_SWITCH[node.value.lower()])
        return replace(place, value=_scalar(node, place))

    def sequence(self, node: yaml.SequenceNode, place: Node, depth: int) -> list[Node]:
        """Return a list's items, each at its own line."""
        return [
            self.build(item, Node(place.file, _line(item), f"{place.key}[{i}]"), depth)
            for i, item in enumerate(node.value)
        ]

    def mapping(self, node: yaml.MappingNode, place: Node, depth: int) -> dict[str, Node]:
        """Return a mapping's entries; what `<<` merges in yields to the mapping's own keys."""
        own: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                merged = {**self.merge(value, replace(place, line=_line(key)), depth), **merged}
                continue
            name = _name(key, place)
            here = Node(place.file, _line(key), place.path_of(name))
            if name in own:
                raise here.error(f"duplicate key: it stands on line {own[name].line} already")
            if _SECRET.fullmatch(name.lower()) and value.value != _ASKED_FOR:
                raise here.error(NO_SECRETS)
            own[name] = self.build(value, here, depth)
        return {**merged, **own}

    def merge(self, value: yaml.Node, place: Node, depth: int) -> dict[str, Node]:
        """Return the entries that `<<: *anchor` or `<<: [*a, *b]` brings in; the first of several wins."""
        sources = value.value if isinstance(value, yaml.SequenceNode) else [value]
        merged: dict[str, Node] = {}
        for source in sources:
            if not isinstance(source, yaml.MappingNode):
                raise place.error("`<<` can merge nothing but mappings")
            merged = {**self.build(source, place, depth).entries(), **merged}
        return merged


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def _name(node: yaml.Node, place: Node) -> str:
    """Return a mapping's key, which must be text."""
    here = replace(place, line=_line(node))
    if not isinstance(node, yaml.ScalarNode):
        raise here.error("a key must be text, not a list or a mapping")
    text: str = node.value
    is_text = node.tag in _TEXT and not _REAL.fullmatch(text)
    if getattr(node, "style", None) is None and not is_text:
        raise here.error(f"the key `{text}` is not text to all readers of YAML: put it in quotes")
    return _printable(text, here)


def _scalar(node: yaml.Node, place: Node) -> Scalar:
    """Return a scalar's value; YAML 1.1 and 1.2 must agree on it.

    The exception is `1e-3`, which PyYAML calls text and everybody else a number.
    """
    text: str = node.value
    if getattr(node, "style", None) is not None:
        return _printable(text, place)
    if node.tag == _NULL:
        return None
    if _BOOLEAN.fullmatch(text):
        return text.lower() == "true"
    if _INTEGER.fullmatch(text) or _REAL.fullmatch(text):
        return _number(text, place)
    if node.tag in _TEXT:
        return _printable(text, place)
    why = _AMBIGUOUS.get(node.tag.rpartition(":")[2], "has a meaning of its own in YAML")
    raise place.error(f"`{text}` {why}, or put it in quotes to make it text")


def _number(text: str, place: Node) -> int | float:
    if _INTEGER.fullmatch(text) and len(text) < len(str(_INT64)):
        return int(text)
    value = float(text)
    if _INTEGER.fullmatch(text) or abs(value) >= _INT64:
        raise place.error(f"{text if len(text) < 30 else text[:30] + '…'} is too large a number")  # noqa: PLR2004
    return value


def _printable(text: str, place: Node) -> str:
    for character in _controls(text):
        raise place.error(f"holds the control character U+{ord(character):04X}")
    return text


def _controls(text: str) -> Iterator[str]:
    return (c for c in text if unicodedata.category(c) in {"Cc", "Cs"} and c not in "\t\n")
