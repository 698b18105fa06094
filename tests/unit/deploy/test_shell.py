"""What a login shell makes of our command lines, asked of the real shells; and where a command's output begins."""

from __future__ import annotations

import itertools
import shutil
import subprocess

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from deploy.remote.shell import MOST_NOISE, AfterMarker, TooMuchNoise, command_line, new_marker, quote

SHELLS = ("sh", "bash", "zsh", "fish")
WORDS = st.lists(
    st.text(st.sampled_from(list("\\'\"$`!*? \n\t;&|<>(){}[]~#^%a-=é→\U0001f40d")), max_size=12)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12),
    max_size=4,
)
SETTINGS = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, tmp_path, monkeypatch) -> str:
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    monkeypatch.setenv("HOME", str(tmp_path))
    return request.param


def arrived(shell: str, line: bytes) -> bytes:
    return subprocess.run([shell, "-c", line], capture_output=True, check=True).stdout


@SETTINGS
@given(words=WORDS)
@example(
    words=[
        "\\",
        "'",
        "\\'",
        "'\\",
        "\\\\''\\",
        "a\\",
        "",
        "\\n",
        "it's",
        '"',
        '\\"',
        "$x",
        "\\$x",
        "''",
        "=ls",
        "%self",
        "~",
    ]
)
def test_every_word_arrives_as_it_is(shell: str, words: list[str]) -> None:
    """An argv with any text arrives in the argv of the command, by way of each shell; the marker comes first."""
    marker = new_marker()
    line = command_line(["printf", "%s\\0", "", *words], marker)
    assert marker not in line
    assert arrived(shell, line) == marker + b"\0" + b"".join(word.encode() + b"\0" for word in words)


@SETTINGS
@given(word=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20))
def test_a_quoted_word_is_one_word(shell: str, word: str) -> None:
    assert arrived(shell, f"printf '%s|' {quote(word)} end".encode()) == f"{word}|end|".encode()


def test_bytes_that_are_no_text_arrive(shell: str) -> None:
    """A path may hold any bytes; Python shows them as surrogates."""
    word = b"caf\xe9 \xff'\\".decode("utf-8", "surrogateescape")
    assert arrived(shell, command_line(["printf", "%s", word], b"mark")) == b"mark" + b"caf\xe9 \xff'\\"


def test_the_command_replaces_the_shell(shell: str) -> None:
    """No shell stays between sshd and the command: its exit status and signals are the command's own."""
    line = command_line(["sh", "-c", 'printf "%s %s" $$ "$PPID"'], b"mark")
    with subprocess.Popen([shell, "-c", line], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        own, _ = process.stdout.read().removeprefix(b"mark").split()
        assert int(own) == process.pid


def test_an_echoed_command_line_is_no_marker() -> None:
    """A shell that prints what it runs (set -x, set -v) prints a line without the marker."""
    marker = new_marker()
    told = subprocess.run(["bash", "-xv", "-c", command_line(["true"], marker)], capture_output=True, check=True)
    assert told.stderr.count(marker) == 1
    assert new_marker() != marker


@given(noise=st.binary(max_size=200), output=st.binary(max_size=200), cuts=st.lists(st.integers(0, 424), max_size=30))
@example(noise=b"mar-mar", output=b"mark", cuts=list(range(30)))
def test_the_marker_is_found_however_the_stream_is_cut(noise: bytes, output: bytes, cuts: list[int]) -> None:
    """Exactly what follows the first marker gets through, whatever the pieces."""
    marker = b"mar-marker-mar"
    got = bytearray()
    after = AfterMarker(marker, got.extend)
    stream = noise + marker + output
    places = sorted({0, *cuts, len(stream)})
    for start, end in itertools.pairwise(places):
        after(stream[start:end])
    assert bytes(got) == stream[stream.index(marker) + len(marker) :]
    assert after.begun


def test_noise_is_kept_until_the_marker_and_bounded() -> None:
    after = AfterMarker(b"marker", pytest.fail)
    after(b"This account is")
    after(b" not available")
    assert (after.begun, after.noise) == (False, b"This account is not available")
    with pytest.raises(TooMuchNoise):
        after(b"x" * MOST_NOISE)


def test_rolling_noise_keeps_its_end() -> None:
    """On standard error nothing is too much: the end is kept, and the marker found."""
    got = bytearray()
    after = AfterMarker(b"marker", got.extend, rolling=True)
    for _ in range(4):
        after(b"x" * MOST_NOISE)
    assert len(after.noise) <= MOST_NOISE
    after(b"mar")
    after(b"kerout")
    assert (bytes(got), after.noise) == (b"out", b"")
