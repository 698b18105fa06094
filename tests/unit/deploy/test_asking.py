"""Secrets: asked for once, one at a time, never shown."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deploy.remote.asking import Answers, NobodyToAsk, Secret, WrongAnswer


class Person:
    """Types the answers that it was given, and notices when two prompts are open at once."""

    def __init__(self, *answers: str) -> None:
        self.answers, self.prompts = list(answers), []
        self.busy = threading.Lock()

    def __call__(self, prompt: str) -> Secret:
        assert self.busy.acquire(blocking=False), "two prompts at once"
        self.prompts.append(prompt)
        answer = self.answers.pop(0)
        self.busy.release()
        return Secret(answer)


def test_a_secret_does_not_show_itself() -> None:
    """Not in a message, a traceback's repr, a format, nor a file."""
    secret = Secret("hunter2")
    assert "hunter2" not in f"{secret} {secret!r} {[secret]}"
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    assert secret.reveal() == "hunter2"


def test_many_threads_ask_once_for_each_login() -> None:
    person = Person("a", "b")
    answers: Answers[str] = Answers(person)
    logins = ["kim@one", "kim@two"] * 20
    with ThreadPoolExecutor(20) as pool:
        got = [secret.reveal() for secret in pool.map(answers.password, logins)]
    assert set(zip(logins, got, strict=True)) in (
        {("kim@one", "a"), ("kim@two", "b")},
        {("kim@one", "b"), ("kim@two", "a")},
    )
    assert len(person.prompts) == 2


def load(secret: Secret) -> str:
    if secret.reveal() != "right":
        raise WrongAnswer
    return "the key"


def test_a_wrong_passphrase_may_be_typed_again() -> None:
    person = Person("wrong", "right")
    answers: Answers[str] = Answers(person)
    file = Path("/home/kim/.ssh/id")
    assert answers.open(file, load) == answers.open(file, load) == answers.opened(file) == "the key"
    assert len(person.prompts) == 2
    assert all(str(file) in prompt for prompt in person.prompts)


@pytest.mark.parametrize("typed", [[""], ["wrong"] * 3])
def test_who_does_not_know_is_not_asked_again(typed: list[str]) -> None:
    answers: Answers[str] = Answers(Person(*typed))
    assert answers.open(Path("id"), load) is None
    assert answers.open(Path("id"), load) is None


def test_nobody_to_ask() -> None:
    answers: Answers[str] = Answers(None)
    assert answers.open(Path("id"), load) is None
    with pytest.raises(NobodyToAsk):
        answers.password("kim@one")
