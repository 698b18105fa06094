"""Gives YAML nodes a type: msgspec checks the data, this module tells the user what is wrong.

Every failure is an InputError with file, line, dotted key and what would be right. It knows no file format.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import msgspec
from msgspec import inspect

from deploy.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from deploy.yamlfile import Node

T = TypeVar("T")
Step = str | int
_ANY = "..."
"""How msgspec writes a step into a mapping: it does not say which key."""

_PLACE = re.compile(r"(?s)(?P<what>.*?)(?: - at `(?P<key>key` in `)?\$(?P<path>[^`]*)`)?")
_STEP = re.compile(r"\.(?P<field>[^.\[]+)|\[(?P<index>\d+)\]|\[\.\.\.\]")
_MEANING = re.compile(r"\(\?#(.*?)\)")


def convert(node: Node, kind: type[T]) -> T:
    """Return the node's data as `kind`; raises InputError for the first thing that is wrong with it."""
    try:
        return msgspec.convert(node.plain(), kind)
    except msgspec.ValidationError as error:
        raise _explain(node, kind, str(error)) from None


def unknown(word: str, known: Iterable[str], what: str = "keys") -> str:
    """Return the end of a message about a word that is not known: the nearest known one, and all of them."""
    names = list(known)
    return f"{_nearest(word, names)} (known {what}: {', '.join(names)})"


def _nearest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _explain(node: Node, kind: type[T], message: str) -> InputError:
    """Return msgspec's `message` about `node` as a message to the user.

    Where msgspec does not say which entry of a mapping it means, the entries are tried one at a time.
    """
    what, path, is_key = _parse(message)
    steps: list[Step] = []
    for step in path:
        here = _follow(node, steps)
        if step == _ANY and isinstance(here.value, dict):
            if len(here.value) > 1:
                return _explain(*_narrowed(node, steps, kind, message))
            steps.append(next(iter(here.value)))
        else:
            steps.append(step)
    found = _follow(node, steps)
    info = _type_at(inspect.type_info(kind), node, steps)
    if not is_key:
        return _complaint(found, info, what)
    if len(found.entries()) > 1:
        return _explain(*_narrowed(node, steps, kind, message))
    name, entry = next(iter(found.entries().items()))
    wanted = _wanted(info.key_type) if isinstance(info, inspect.DictType) else "text"
    return entry.error(f"the name {name!r} must be {wanted}")


def _parse(message: str) -> tuple[str, list[Step], bool]:
    match = _PLACE.fullmatch(message)
    if match is None:
        raise AssertionError(message)
    path = _STEP.finditer(match["path"] or "")
    steps: list[Step] = [int(x["index"]) if x["index"] else x["field"] or _ANY for x in path]
    return match["what"], steps, match["key"] is not None


def _narrowed(node: Node, steps: list[Step], kind: type[T], message: str) -> tuple[Node, type[T], str]:
    """Return `node` with only that entry of the mapping at `steps` which is why msgspec says `message`."""
    for name, entry in _follow(node, steps).entries().items():
        candidate = _replaced(node, steps, {name: entry})
        try:
            msgspec.convert(candidate.plain(), kind)
        except msgspec.ValidationError as error:
            if str(error) == message:
                return candidate, kind, message
    raise AssertionError(message)


def _follow(node: Node, steps: list[Step]) -> Node:
    for step in steps:
        node = node.items()[step] if isinstance(step, int) else node.entries()[step]
    return node


def _replaced(node: Node, steps: list[Step], entries: dict[str, Node]) -> Node:
    if not steps:
        return node.having(entries)
    first, *rest = steps
    if isinstance(first, int):
        items = [_replaced(x, rest, entries) if i == first else x for i, x in enumerate(node.items())]
        return replace(node, value=items)
    return node.having({**node.entries(), first: _replaced(node.entries()[first], rest, entries)})


def _type_at(info: inspect.Type, node: Node, steps: list[Step]) -> inspect.Type:
    """Return the type that is asked for at `steps`; of a union, the member that the data chooses."""
    info = _chosen(info, node)
    for step in steps:
        if isinstance(info, inspect.StructType):
            if step == info.tag_field:
                return inspect.LiteralType((info.tag,))
            info = next(field.type for field in info.fields if field.encode_name == step)
        elif isinstance(info, inspect.DictType):
            info = info.value_type
        elif isinstance(info, inspect.ListType | inspect.VarTupleType):
            info = info.item_type
        elif isinstance(info, inspect.UnionType):
            return inspect.LiteralType(tuple(x.tag for x in _structs(info)))
        node = _follow(node, [step])
        info = _chosen(info, node)
    return info


def _structs(info: inspect.UnionType) -> list[inspect.StructType]:
    return [x for x in info.types if isinstance(x, inspect.StructType)]


def _chosen(info: inspect.Type, node: Node) -> inspect.Type:
    while isinstance(info, inspect.Metadata):
        info = info.type
    if not isinstance(info, inspect.UnionType) or not isinstance(node.value, dict):
        return info
    members = _structs(info)
    for member in members:
        tag = node.get(member.tag_field or "")
        if len(members) == 1 or (tag and tag.value == member.tag):
            return member
    return info


def _complaint(node: Node, info: inspect.Type, what: str) -> InputError:
    """Return what is wrong with `node`, of which `info` is asked; `what` is msgspec's or a struct's message."""
    if what.startswith("Object contains unknown field") and isinstance(info, inspect.StructType):
        known = [*([info.tag_field] if info.tag_field else []), *(x.encode_name for x in info.fields)]
        name, entry = next((name, x) for name, x in node.entries().items() if name not in known)
        return entry.error(f"unknown key{unknown(name, known)}")
    if what.startswith("Object missing required field"):
        name = what.split("`")[1]
        return InputError(node.file, "is missing", line=node.line, key=node.path_of(name))
    if not what.startswith(("Expected ", "Invalid ")):
        return node.error(what)
    return node.error(f"must be {_wanted(info)}, not {node.shown()}{_hint(node, _only(info))}")


def _hint(node: Node, info: inspect.Type) -> str:
    if isinstance(info, inspect.StrType) and isinstance(node.value, bool | int | float):
        return " (put text in quotes)"
    if isinstance(info, inspect.LiteralType) and len(info.values) > 1:
        return _nearest(str(node.value), [str(x) for x in info.values])
    return ""


def _only(info: inspect.Type) -> inspect.Type:
    """Return the type that is left of a union with null."""
    if not isinstance(info, inspect.UnionType):
        return info
    rest = [x for x in info.types if not isinstance(x, inspect.NoneType)]
    return rest[0] if len(rest) == 1 else info


def _wanted(info: inspect.Type) -> str:
    """Return what a user should write, in words."""
    info = _only(info)
    match info:
        case inspect.Metadata():
            return _wanted(info.type)
        case inspect.UnionType() if len(tags := _structs(info)) > 1:
            return f"a mapping with {tags[0].tag_field}: {' | '.join(str(x.tag) for x in tags)}"
        case inspect.UnionType():
            return _either(info)
        case inspect.LiteralType():
            values = [str(x) for x in info.values]
            return repr(values[0]) if len(values) == 1 else f"one of {', '.join(values)}"
        case inspect.IntType():
            return "a whole number" + _bounds(info)
        case inspect.FloatType():
            return "a number" + _bounds(info)
        case inspect.StrType():
            return _text(info)
        case inspect.BoolType():
            return "true or false"
        case inspect.ListType() | inspect.VarTupleType():
            return "a list [a, b, …]" + (" that is not empty" if info.min_length else "")
        case _:
            return "a mapping (key: value)"


def _either(info: inspect.UnionType) -> str:
    """Join a union's members; a whole number is not worth a word beside a number."""
    numbers = any(isinstance(x, inspect.FloatType) for x in info.types)
    *others, last = [_wanted(x) for x in info.types if not (numbers and isinstance(x, inspect.IntType))]
    return f"{', '.join(others)} or {last}" if others else last


def _bounds(info: inspect.IntType | inspect.FloatType) -> str:
    if info.ge is not None and info.le is not None:
        return f" from {info.ge:g} to {info.le:g}"
    limits = {"of {:g} or more": info.ge, "above {:g}": info.gt, "at most {:g}": info.le, "below {:g}": info.lt}
    said = " and ".join(words.format(limit) for words, limit in limits.items() if limit is not None)
    return f" {said}" if said else ""


def _text(info: inspect.StrType) -> str:
    meaning = _MEANING.search(info.pattern or "")
    length = f" of at most {info.max_length} characters" if info.max_length else ""
    return (meaning[1] if meaning else "text") + length
