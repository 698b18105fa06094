"""Types for YAML nodes: every complaint names the entry that causes it, also inside mappings and lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import pytest

from deploy.convert import convert
from deploy.errors import InputError
from deploy.yamlfile import read_yaml

if TYPE_CHECKING:
    from pathlib import Path

Small = Annotated[int, msgspec.Meta(ge=1, le=9)]
Word = Annotated[str, msgspec.Meta(pattern=r"(?#a lower-case word)^[a-z]+\Z")]


class Cat(msgspec.Struct, forbid_unknown_fields=True, tag_field="kind", tag="cat"):
    lives: Small = 9


class Dog(msgspec.Struct, forbid_unknown_fields=True, tag_field="kind", tag="dog"):
    name: Word


class Zoo(msgspec.Struct, forbid_unknown_fields=True):
    """Every sort of field."""

    must: bool = True
    pets: dict[Word, Cat | Dog] = {}
    counts: dict[str, Small] = {}
    nested: dict[str, list[dict[str, Small]]] = {}
    size: Literal["small", "large"] | None = None
    weight: Annotated[float, msgspec.Meta(gt=0)] | None = None
    speed: Annotated[float, msgspec.Meta(ge=0, lt=8)] = 0
    free: bool | int | float | str = 0
    some: Annotated[list[Any], msgspec.Meta(min_length=1)] = msgspec.field(default_factory=list)
    cat: Cat | None = None


@pytest.mark.parametrize(
    ("text", "line", "key", "message"),
    [
        ("must: 1", 1, "must", "must be true or false, not 1"),
        ("counts:\n  a: 1\n  b: 2\n  c: 10", 4, "counts.c", "must be a whole number from 1 to 9, not 10"),
        ("counts:\n  a: 1\n  b:\n  c: 10", 3, "counts.b", "must be a whole number from 1 to 9, not empty"),
        ("counts: [1]", 1, "counts", "must be a mapping (key: value), not a list"),
        ("nested:\n  a: [{b: 1}, {c: 2, d: 0}]", 2, "nested.a[1].d", "whole number from 1 to 9, not 0"),
        ("nested:\n  a: []\n  b:\n  - {c: 1}\n  - 7", 5, "nested.b[1]", "must be a mapping (key: value), not 7"),
        ("pets:\n  tom: {kind: cat}\n  Rex: {kind: dog}", 3, "pets.Rex", "the name 'Rex' must be a lower-case word"),
        ("pets:\n  tom: {kind: cat}\n  rex: {kind: dog}", 3, "pets.rex.name", "is missing"),
        ("pets: {rex: {kind: dgo}}", 1, "pets.rex.kind", "one of cat, dog, not 'dgo'; did you mean dog?"),
        ("pets: {rex: {}}", 1, "pets.rex.kind", "is missing"),
        ("pets: {rex: 3}", 1, "pets.rex", "must be a mapping with kind: cat | dog, not 3"),
        ("pets: {rex: {kind: cat, live: 3}}", 1, "pets.rex.live", "did you mean lives? (known keys: kind, lives)"),
        ("pets: {rex: {kind: cat, lives: '3'}}", 1, "pets.rex.lives", "a whole number from 1 to 9, not '3'"),
        ("pets: {rex: {kind: dog, name: 3}}", 1, "pets.rex.name", "a lower-case word, not 3 (put text in quotes)"),
        ("size: lrge", 1, "size", "must be one of large, small, not 'lrge'; did you mean large?"),
        ("weight: 0", 1, "weight", "must be a number above 0, not 0"),
        ("speed: 8", 1, "speed", "must be a number of 0 or more and below 8, not 8"),
        ("weight: true", 1, "weight", "must be a number above 0, not true"),
        ("free: [1]", 1, "free", "must be true or false, a number or text, not a list"),
        ("some: []", 1, "some", "must be a list [a, b, …] that is not empty, not an empty list"),
        ("cat: 1", 1, "cat", "must be a mapping (key: value), not 1"),
        ("cat: {live: 1}", 1, "cat.live", "did you mean lives?"),
        ("zzz: 1", 1, "zzz", "unknown key (known keys: must, pets, counts,"),
        ("'` - at `$.x`': 1", 1, "` - at `$.x`", "unknown key"),
    ],
)
def test_messages(tmp_path: Path, text: str, line: int, key: str, message: str) -> None:
    file = tmp_path / "zoo.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        convert(read_yaml(file), Zoo)
    error = caught.value
    assert (error.file, error.line, error.key) == (file, line, key)
    assert message in str(error)


def test_good_data_converts(tmp_path: Path) -> None:
    file = tmp_path / "zoo.yaml"
    file.write_text("pets: {tom: {kind: cat, lives: 3}}\nweight: 2\nsize:\n")
    assert convert(read_yaml(file), Zoo) == Zoo(pets={"tom": Cat(lives=3)}, weight=2.0)
