"""The fake itself: what it answers, and what it remembers."""

from __future__ import annotations

import io

import pytest

from deploy.errors import HostError
from deploy.remote.fake import Call, FakeRemote
from deploy.remote.protocol import Words


def test_the_first_key_that_fits_answers() -> None:
    remote = FakeRemote("a", {("uname", "-m"): "aarch64\n", ("uname",): "Linux\n", lambda argv: "x" in argv: "seen"})
    assert remote.read(["uname", "-m"], step="look") == "aarch64\n"
    assert remote.read(["uname", "-a"], step="look") == "Linux\n"
    assert remote.read(["ls", "x"], step="look") == "seen"
    assert remote.read(["true"], step="look") == ""


def test_an_error_is_raised() -> None:
    remote = FakeRemote("a", {("tar",): HostError("a", "push", "the connection was lost")})
    with pytest.raises(HostError, match="lost"):
        remote.put(iter([b"x"]), ["tar", "-x"], step="push")


def test_calls_are_remembered_with_their_input() -> None:
    remote = FakeRemote("a")
    remote.read(["cat"], step="look", stdin=b"in")
    remote.put(iter([b"1", b"2"]), ["tar"], step="push")
    assert remote.calls == [Call("read", ("cat",), "look", b"in"), Call("put", ("tar",), "push", b"12")]
    remote.close()
    assert remote.closed


def test_words_are_answered_one_by_one() -> None:
    class Said(Words):
        words = iter([b"one\n", b"two\n"])

        def __next__(self) -> bytes:
            return next(self.words)

        def close(self) -> None:
            pass

    remote, lines = FakeRemote("a", {("talk",): lambda word: word.decode().strip().upper()}), list[str]()
    assert remote.run(["talk"], step="clocks", stdin=Said(), on_line=lines.append) == ""
    assert lines == ["ONE", "TWO"]
    assert remote.calls == [Call("run", ("talk",), "clocks", b"one\ntwo\n")]


def test_lines_and_bytes() -> None:
    remote, lines, sink = FakeRemote("a", {(): b"one\ntwo"}), list[str](), io.BytesIO()
    assert remote.run(["tail"], step="watch", on_line=lines.append) == ""
    assert lines == ["one", "two"]
    assert remote.get(["cat"], sink, step="pull") == 7
    assert sink.getvalue() == b"one\ntwo"
