"""A Remote without a host, for tests and dry runs: answers from a script, and remembers what it was asked."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, BinaryIO, Literal

from deploy.remote.protocol import Words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Answer = str | bytes | Exception | Callable[[bytes], str]

Argv = tuple[str, ...]


@dataclass(frozen=True)
class Call:
    """One use of a verb, with all that was fed to the command."""

    verb: Literal["read", "run", "put", "get"]
    argv: Argv
    step: str
    stdin: bytes = b""


@dataclass
class FakeRemote:
    """Answers by the first of `answers` whose key fits: the beginning of an argv, or a function that tells.

    An answer is the standard output, or an error to raise; what no key fits gets an empty output. To a `run` that is
    fed Words it may be a function from each word to the line that answers it.
    """

    host: str
    answers: Mapping[Argv | Callable[[Argv], bool], Answer] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    closed: bool = False

    def read(self, argv: Sequence[str], *, step: str, stdin: bytes = b"") -> str:  # noqa: D102
        return self._answer(Call("read", tuple(argv), step, stdin)).decode()

    def run(  # noqa: D102
        self,
        argv: Sequence[str],
        *,
        step: str,
        stdin: bytes | Words = b"",
        on_line: Callable[[str], None] | None = None,
    ) -> str:
        if isinstance(stdin, Words):
            return self._talk(Call("run", tuple(argv), step), stdin, on_line or _ignore)
        text = self._answer(Call("run", tuple(argv), step, stdin)).decode()
        if on_line is None:
            return text
        for line in text.splitlines():
            on_line(line)
        return ""

    def put(self, stream: Iterator[bytes], argv: Sequence[str], *, step: str) -> str:  # noqa: D102
        return self._answer(Call("put", tuple(argv), step, b"".join(stream))).decode()

    def get(self, argv: Sequence[str], sink: BinaryIO, *, step: str) -> int:  # noqa: D102
        return sink.write(self._answer(Call("get", tuple(argv), step)))

    def close(self) -> None:  # noqa: D102
        self.closed = True

    def _answer(self, call: Call) -> bytes:
        self.calls.append(call)
        answer = self._scripted(call)
        if callable(answer):
            raise TypeError(f"{call.argv}: a function answers Words alone")
        return answer.encode() if isinstance(answer, str) else answer

    def _talk(self, call: Call, words: Words, on_line: Callable[[str], None]) -> str:
        """Answer all that is said, and remember it."""
        self.calls.append(call)
        answer = self._scripted(call)
        for said in words:
            self.calls[self.calls.index(call)] = call = replace(call, stdin=call.stdin + said)
            if callable(answer):
                on_line(answer(said))
        return ""

    def _scripted(self, call: Call) -> str | bytes | Callable[[bytes], str]:
        answer = next((answer for key, answer in self.answers.items() if _fits(key, call.argv)), b"")
        if isinstance(answer, Exception):
            raise answer
        return answer


def _ignore(_line: str) -> None:
    pass


def _fits(key: Argv | Callable[[Argv], bool], argv: Argv) -> bool:
    return key(argv) if callable(key) else argv[: len(key)] == key
