"""YAML with positions: whatever a file holds, the answer is a tree of nodes or one InputError."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from deploy.errors import InputError
from deploy.yamlfile import MAX_NODES, Node, Plain, read_yaml

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("yaml") / "file.yaml"


def read(file: Path, text: str) -> Node:
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    return read_yaml(file)


def refusal(file: Path, text: str) -> InputError:
    with pytest.raises(InputError) as caught:
        read(file, text)
    return caught.value


def outcome(file: Path) -> str:
    try:
        return str(read_yaml(file).plain())
    except InputError as error:
        return str(error)


def test_nodes_know_line_and_key(file: Path) -> None:
    """A value's line is that of its key, an item's its own; keys are dotted."""
    top = read(file, "# comment\na:\n  b:\n    - 1\n    - c: 2\nd.e: 3\n")
    inner = top.entries()["a"].entries()["b"]
    assert (inner.line, inner.key) == (3, "a.b")
    second = inner.items()[1]
    assert (second.line, second.key) == (5, "a.b[1]")
    assert second.entries()["c"].key == "a.b[1].c"
    assert top.entries()["d.e"].key == "d.e"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-0.5", -0.5),
        (".5", 0.5),
        ("1e-3", 0.001),
        ("1.0e-3", 0.001),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("'no'", "no"),
        ('"010"', "010"),
        ("y", "y"),
        ("192.0.2.1:8080", "192.0.2.1:8080"),
        ("=", "="),
        ("[1, [a]]", [1, ["a"]]),
        ("{b: 1}", {"b": 1}),
        ("|\n  two\n  lines\n", "two\nlines\n"),
    ],
)
def test_values_that_all_readers_agree_on(file: Path, text: str, value: Plain) -> None:
    node = read(file, f"a: {text}\n").entries()["a"]
    assert node.plain() == value
    assert type(node.plain()) is type(value)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("no", "write true or false"),
        ("On", "write true or false"),
        ("YES", "write true or false"),
        ("010", "plain decimal"),
        ("0x1F", "plain decimal"),
        ("1_000", "plain decimal"),
        ("12:30", "plain decimal"),
        (".nan", "finite"),
        ("-.inf", "finite"),
        ("1:30.5", "finite"),
        ("2024-02-30", "date"),
        ("2024-01-01", "date"),
        ("<<", "in quotes"),
    ],
)
def test_values_that_readers_differ_on_are_refused(file: Path, text: str, word: str) -> None:
    """A plain word that YAML 1.1 and 1.2 read differently is an error that says what to write."""
    error = refusal(file, f"b: 1\na: {text}\n")
    assert (error.file, error.line, error.key) == (file, 2, "a")
    assert f"`{text}`" in str(error)
    assert word in str(error)


@pytest.mark.parametrize(("text", "value"), [("on", True), ("Off", False), ("true", True), ("'off'", "off")])
def test_a_switch_is_on_or_off(file: Path, text: str, value: Plain) -> None:
    """Where the caller says that a key is one; elsewhere the plain words are refused, and quoted they are text."""
    file.write_text(f"a: {{tls: {text}}}\n")
    assert read_yaml(file, switches=("a.tls",)).plain() == {"a": {"tls": value}}
    for switches in ((), ("tls",), ("a",)):
        if text.lower() in ("on", "off"):
            with pytest.raises(InputError, match="write true or false"):
                read_yaml(file, switches=switches)


@pytest.mark.parametrize("key", ["no", "on", "1", "1.5", "1e3", "~", "true", "2024-01-01", "12:30"])
def test_keys_are_text(file: Path, key: str) -> None:
    error = refusal(file, f"a:\n  b: 1\n  {key}: 2\n")
    assert (error.line, error.key) == (3, "a")
    assert f"the key `{key}`" in str(error)
    assert "put it in quotes" in str(error)
    assert read(file, f"'{key}': 2\n").plain() == {key: 2}


@pytest.mark.parametrize("key", ["[a, b]", "{a: b}"])
def test_keys_are_not_collections(file: Path, key: str) -> None:
    assert "a key must be text" in str(refusal(file, f"? {key}\n: 2\n"))


def test_duplicate_keys_are_refused(file: Path) -> None:
    """Most readers let the last one win; here both lines are named."""
    error = refusal(file, "x: 1\na:\n  b: 1\n  c: 2\n  b: 1\n")
    assert (error.line, error.key) == (5, "a.b")
    assert "duplicate key" in str(error)
    assert "line 3" in str(error)


@pytest.mark.parametrize(
    "key",
    [
        "password",
        "Passwd",
        "sudo_password",
        "key-passphrase",
        "secret",
        "client_secret",
        "token",
        "api-key",
        "ssh_pass",
    ],
)
def test_secrets_are_refused_and_not_shown(file: Path, key: str) -> None:
    error = refusal(file, f"a:\n  {key}: hunter2\n")
    assert (error.line, error.key) == (2, f"a.{key}")
    assert "never in YAML" in str(error)
    assert "hunter2" not in str(error)


@pytest.mark.parametrize("key", ["passes", "tokenizer", "max_tokens", "compass", "keys", "bypass"])
def test_harmless_keys_are_no_secrets(file: Path, key: str) -> None:
    assert read(file, f"{key}: 1\n").plain() == {key: 1}


def test_anchors_and_merges_work(file: Path) -> None:
    top = read(file, "a: &x {b: 1, c: 2}\nd: *x\ne: {<<: *x, c: 3}\nf: {<<: [{c: 4}, *x]}\n")
    assert top.plain() == {
        "a": {"b": 1, "c": 2},
        "d": {"b": 1, "c": 2},
        "e": {"b": 1, "c": 3},
        "f": {"b": 1, "c": 4},
    }
    assert top.entries()["d"].entries()["b"].key == "d.b"


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", None, "is empty"),
        ("# only a comment\n", None, "is empty"),
        ("---\n", None, "is empty"),
        ("- a\n", 1, "must be a mapping (key: value), not a list"),
        ("\n\nword\n", 3, "must be a mapping (key: value), not 'word'"),
        ("a: 1\nb: [1, 2\n", 3, "is not YAML"),
        ("a: 1\nb: c: d\n", 2, "mapping values are not allowed here"),
        ("a:\n\tb: 1\n", 2, "indent with spaces, not tabs"),
        ("a: 1\n---\nb: 1\n", 2, "another document"),
        ("a: 1\nb: *x\n", 2, "undefined alias"),
        ("a: 1\nb: !!python/name:os.system x\n", 2, "tags (!…) are not used here"),
        ("a: !!str 1\n", 1, "tags (!…) are not used here"),
        ("a: 1\nb: \x07\n", 2, "control character"),
        ('a: "\\0"\n', 1, "control character U+0000"),
        ('a: "\\ud800"\n', 1, "control character U+D800"),
        ('a: "\\U7fffffff"\n', None, "is not YAML"),
        ("a: &x [*x]\n", 1, "nested deeper"),
        ("a: &x {<<: *x}\n", 1, "nested deeper"),
        ("a: {<<: 1}\n", 1, "can merge nothing but mappings"),
        ("[" * 10_000, None, "nested deeper"),
        ("a: 1e999\n", 1, "too large"),
        ("a: 99999999999999999999\n", 1, "too large"),
        (f"a: {'9' * 5000}\n", 1, "too large"),
        (f"a: [{'1,' * MAX_NODES}]\n", 1, f"more than {MAX_NODES} values"),
    ],
)
def test_bad_files(file: Path, text: str, line: int | None, message: str) -> None:
    error = refusal(file, text)
    assert str(error).startswith(f"{file}:{line}: " if line else f"{file}: ")
    assert message in str(error)
    assert len(str(error)) < 400


def test_aliases_cannot_fill_the_memory(file: Path) -> None:
    """Ten levels of ten aliases each would be 10^10 values."""
    levels = [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 10)}]" for i in range(1, 11)]
    error = refusal(file, "l0: &l0 [1]\n" + "\n".join(levels))
    assert "values" in str(error)


@pytest.mark.parametrize("data", [b"a: \xff\n", b"\xff\xfea\x00"])
def test_other_encodings_are_refused(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"file\.yaml:1: is not UTF-8 text"):
        read_yaml(file)


def test_a_byte_order_mark_is_skipped(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert read_yaml(file).plain() == {"a": 1, "b": 2}


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.yaml: no such file"):
        read_yaml(tmp_path / "absent.yaml")
    with pytest.raises(InputError, match="is a directory"):
        read_yaml(tmp_path)
    with pytest.raises(InputError, match="cannot be read: File name too long"):
        read_yaml(tmp_path / ("x" * 300))
    with pytest.raises(InputError, match="is not a file name"):
        read_yaml(tmp_path / "a\0b")


YAMLISH = st.lists(
    st.sampled_from([*"ab01 \n\t-:,.?&*!|>%@`'\"[]{}#~<=\\", "\n  ", ": ", "- ", "&a", "*a", "<<", "no"])
)


@given(text=st.one_of(st.text(max_size=40), YAMLISH.map("".join)))
@example("%YAML 1.1\n---\na: 1\n")
@example("%YAML 99999999999999999999.1\n---\na: 1\n")
@example("%TAG ! x\n--- a: 1")
@example('a: "\\x"')
@example("? a\n? a\n")
@example("a: >9999999999999999999999\n  x")
def test_no_text_makes_anything_but_an_input_error(file: Path, text: str) -> None:
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert outcome(file).startswith(("{", f"{file}:"))


@given(data=st.binary(max_size=40))
def test_no_bytes_make_anything_but_an_input_error(file: Path, data: bytes) -> None:
    file.write_bytes(data)
    assert outcome(file).startswith(("{", f"{file}:"))
