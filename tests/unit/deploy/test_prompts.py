"""The terminal's prompt, on a pseudo-terminal: nothing is shown, and Ctrl-C leaves no thread and no silent terminal."""

from __future__ import annotations

import os
import pty
import select
import termios
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from deploy.errors import DeployError
from deploy.prompts import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def person() -> Iterator[tuple[int, str, int]]:
    """The person's end of a terminal, the terminal's name, and a file of it to look at its settings."""
    ours, theirs = pty.openpty()
    yield ours, os.ttyname(theirs), theirs
    os.close(ours)
    os.close(theirs)


def seen(ours: int, end: bytes) -> bytes:
    shown = b""
    while not shown.endswith(end):
        assert select.select([ours], [], [], 10)[0], shown
        shown += os.read(ours, 1000)
    return shown


def echoes(terminal: int) -> bool:
    return bool(termios.tcgetattr(terminal)[3] & termios.ECHO)


def test_what_is_typed_is_not_shown(person: tuple[int, str, int]) -> None:
    ours, name, terminal = person
    with Terminal(name) as ask, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, "Password: ")
        shown = seen(ours, b"Password: ")
        os.write(ours, "öpen sesame\n".encode())
        assert answer.result(10).reveal() == "öpen sesame"
        assert shown + seen(ours, b"\n") == b"Password: \r\n"
        assert echoes(terminal)


def test_leaving_ends_a_prompt_that_waits(person: tuple[int, str, int]) -> None:
    """As Ctrl-C does in the main thread while a worker thread asks."""
    ours, name, terminal = person
    with ThreadPoolExecutor(1) as pool:
        with Terminal(name) as ask:
            answer = pool.submit(ask, "Password: ")
            seen(ours, b"Password: ")
            assert not echoes(terminal)
        with pytest.raises(DeployError, match="interrupted"):
            answer.result(10)
    assert echoes(terminal)


def test_the_end_of_the_input_is_no_answer(person: tuple[int, str, int]) -> None:
    ours, name, _ = person
    with Terminal(name) as ask, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, "Password: ")
        seen(ours, b"Password: ")
        os.write(ours, b"\x04")  # Ctrl-D
        assert answer.result(10).reveal() == ""


@pytest.mark.parametrize("path", ["/dev/null", "/no/such/terminal"])
def test_no_terminal(path: str) -> None:
    with Terminal(path) as ask:
        assert ask is None
