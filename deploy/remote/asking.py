"""Secrets that only a person knows: asked for once each, one prompt at a time, and never shown.

`Ask` is how the toolkit reaches the person; the terminal's own is `deploy.prompts`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, NoReturn, TypeVar

if TYPE_CHECKING:
    from pathlib import Path

K = TypeVar("K")
_TRIES = 3


class Secret:
    """Text that shows itself only to who asks for it by `reveal`."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return "Secret(***)"

    def __str__(self) -> str:
        return "***"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not written anywhere")

    def reveal(self) -> str:
        """Return the text."""
        return self._text


Ask = Callable[[str], Secret]
"""Shows a prompt to the person and returns the answer; an empty one means that there is none."""


class NobodyToAsk(Exception):
    """Something has to be asked, and there is no terminal."""


class WrongAnswer(Exception):
    """A passphrase that does not open its key."""


class Answers(Generic[K]):
    """What the person has said so far: a password for each login, an opened key (of type K) for each key file."""

    def __init__(self, ask: Ask | None) -> None:
        self._ask, self._lock = ask, threading.Lock()
        self._passwords: dict[str, Secret] = {}
        self._keys: dict[Path, K | None] = {}

    def password(self, login: str) -> Secret:
        """Return the password of `user@host`; raises NobodyToAsk."""
        with self._lock:
            if login not in self._passwords:
                self._passwords[login] = self._answer(f"Password of {login}: ")
            return self._passwords[login]

    def opened(self, file: Path) -> K | None:
        """Return a key that was opened before."""
        return self._keys.get(file)

    def open(self, file: Path, load: Callable[[Secret], K]) -> K | None:
        """Return the key in a file with a passphrase; None if the person does not know it.

        `load` raises WrongAnswer; the person may try again, but is asked for each file once only.
        """
        with self._lock:
            if self._ask is None:
                return None
            if file not in self._keys:
                self._keys[file] = self._opened(file, load)
            return self._keys[file]

    def _opened(self, file: Path, load: Callable[[Secret], K]) -> K | None:
        prompt = f"Passphrase of {file}: "
        for _ in range(_TRIES):
            answer = self._answer(prompt)
            if not answer.reveal():
                return None
            try:
                return load(answer)
            except WrongAnswer:
                prompt = f"That did not open it. Passphrase of {file}: "
        return None

    def _answer(self, prompt: str) -> Secret:
        if self._ask is None:
            raise NobodyToAsk
        return self._ask(prompt)
