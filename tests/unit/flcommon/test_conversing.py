"""The host's end of a conversation: what it answers, when it says that a controller is there, and how it ends."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flcommon.conversing import converse
from flcommon.lease import CONTROL_FILE, is_held

if TYPE_CHECKING:
    from collections.abc import Iterator

CLI = [sys.executable, "-P", "-m", "flcommon.commands", "converse"]


@pytest.fixture(autouse=True)
def _collector() -> Iterator[None]:
    """A conversation has a process for itself, and leaves its garbage collector off."""
    yield
    gc.enable()


@contextmanager
def talking(directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start the verb, as a controller does; it has to end well when its input does."""
    with subprocess.Popen([*CLI, directory], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as talk:
        yield talk
        talk.stdin.close()
        assert talk.wait(10) == 0


def ask(talk: subprocess.Popen[bytes], word: bytes) -> bytes:
    talk.stdin.write(word + b"\n")
    return talk.stdout.readline().strip()


def heard(pieces: list[bytes], directory: Path) -> list[bytes]:
    """Return what is answered to input that comes in these pieces."""
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb"), os.fdopen(writing, "wb", buffering=0) as end:
        answers = converse(directory, reading)
        told = []
        for number, piece in enumerate(pieces):
            end.write(piece)
            if number == len(pieces) - 1:
                end.close()
            told += [next(answers) for _ in range(piece.count(b"\n"))]
        return [*told, *answers]


def test_an_answer_lies_between_its_word_and_its_return(tmp_path: Path) -> None:
    """On one machine both ends have one clock: by it, what happens in order has stamps in that order."""
    with talking(tmp_path) as talk:
        for number in range(50):
            sent = time.monotonic_ns(), time.time_ns()
            answer = ask(talk, b"%d" % number)
            back = time.monotonic_ns(), time.time_ns()
            seen, *stamps = map(int, answer.split())
            assert seen == number
            assert sent[0] <= stamps[0] <= stamps[2] <= back[0]
            assert sent[1] <= stamps[1] <= stamps[3] <= back[1]


def test_every_word_renews_the_lease(tmp_path: Path) -> None:
    """And nothing else does: without a word it runs out."""
    control = tmp_path / CONTROL_FILE
    with talking(tmp_path) as talk:
        ask(talk, b"1")
        ask(talk, b"2")  # what follows an answer is done before the next
        first = int(control.read_text())
        assert is_held(control)
        assert not is_held(control, lease_s=0.0)
        ask(talk, b"3")
        ask(talk, b"4")
        assert first < int(control.read_text()) <= time.monotonic_ns()


def test_leave_is_written_down_before_it_is_answered(tmp_path: Path) -> None:
    """Who has the answer may go: the campaign needs no controller from then on."""
    control = tmp_path / CONTROL_FILE
    with talking(tmp_path) as talk:
        ask(talk, b"1")
        assert ask(talk, b"leave") == b"leave"
        assert is_held(control, lease_s=0.0)
    assert is_held(control, lease_s=0.0)


def test_clocks_are_told_before_anything_was_started(tmp_path: Path) -> None:
    """The directory is not there yet, and is not made: a start would take it for a used one."""
    directory = tmp_path / "campaign" / "pi"
    with talking(directory) as talk:
        assert ask(talk, b"7").startswith(b"7 ")
        assert ask(talk, b"leave") == b"leave"
        assert not directory.parent.exists()
        directory.mkdir(parents=True)
        ask(talk, b"8")
        ask(talk, b"9")
        assert is_held(directory / CONTROL_FILE)


def test_silence_is_an_end(tmp_path: Path) -> None:
    """A controller that went without a word (its machine is off, its network gone) leaves no process for ever."""
    reading, writing = os.pipe()
    with os.fdopen(reading), os.fdopen(writing, "wb", buffering=0) as end:
        answers = converse(tmp_path, reading, silence_s=0.05)
        end.write(b"1\n")
        assert next(answers).startswith(b"1 ")
        assert next(answers, None) is None


def test_a_full_disk_is_said_in_one_line(tmp_path: Path) -> None:
    """The lease cannot be written: the verb ends with status 1, and names the file."""
    (tmp_path / CONTROL_FILE).mkdir()  # root may write everywhere, but not on a directory
    done = subprocess.run([*CLI, tmp_path], input=b"1\n", capture_output=True, timeout=20, check=False)
    assert done.returncode == 1
    (said,) = done.stderr.decode().splitlines()
    assert said.startswith(f"{tmp_path}/.{CONTROL_FILE}.")
    assert said.endswith(": Is a directory")


@given(cuts=st.lists(st.integers(0, 20), max_size=6))
def test_words_may_arrive_in_any_pieces(cuts: list[int]) -> None:
    """What is answered depends on the lines, not on how a network cuts or joins them."""
    said = b"1\n22\nleave\n333\n"
    places = sorted({0, len(said), *(min(cut, len(said)) for cut in cuts)})
    with TemporaryDirectory() as place:
        answers = heard([said[a:b] for a, b in pairwise(places)], Path(place))
    assert [answer.split()[0] for answer in answers] == [b"1", b"22", b"leave", b"333"]
    assert all(len(answer.split()) in (1, 5) for answer in answers)


def test_a_collector_that_is_off_costs_no_memory(tmp_path: Path) -> None:
    """A conversation of thousands of words makes nothing that only a collection would free."""
    reading, writing = os.pipe()
    with os.fdopen(reading), os.fdopen(writing, "wb", buffering=0) as end:

        def talk() -> None:
            for number in range(2000):
                end.write(b"%d\n" % number)
            end.close()

        thread = threading.Thread(target=talk)
        gc.collect()
        thread.start()
        for _ in converse(tmp_path, reading):
            pass
        thread.join()
        assert gc.collect() < 100
