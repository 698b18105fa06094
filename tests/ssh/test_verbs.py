"""The five verbs against real SSH servers."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from deploy.errors import CommandFailed, HostError
from deploy.remote import ssh

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Said

    from deploy.inventory import Inventory
    from deploy.remote.ssh import SshRemote

MEGABYTES_5 = os.urandom(5_000_000)


def test_read_returns_standard_output(remote: SshRemote) -> None:
    assert remote.read(["printf", "a\\nb"], step="look") == "a\nb"


def test_stdin_reaches_the_command_and_ends(remote: SshRemote) -> None:
    assert remote.read(["cat"], step="look", stdin=b"one\ntwo") == "one\ntwo"
    assert remote.read(["cat"], step="look") == ""


@pytest.mark.parametrize(
    "word", ["a b", "", "it's", '"q"', "$HOME", "`id`", "a\nb", "*", "\\n", "; exit 9", "!x", "~", "ünï→"]
)
def test_any_argument_survives(remote: SshRemote, word: str) -> None:
    """What stands in the argv arrives in the argv, whatever a shell makes of such characters."""
    assert remote.read(["printf", "%s|", word, "end"], step="look") == f"{word}|end|"


def test_failed_command_carries_everything(remote: SshRemote) -> None:
    argv = ["sh", "-c", "echo out; echo bad >&2; exit 7"]
    with pytest.raises(CommandFailed) as caught:
        remote.run(argv, step="install")
    error = caught.value
    assert (error.host, error.step, error.argv, error.status) == ("server", "install", tuple(argv), 7)
    assert error.output.split() == ["out", "bad"]
    assert "bad" in str(error)


def test_command_killed_by_a_signal_is_a_failed_command(remote: SshRemote) -> None:
    with pytest.raises(CommandFailed):
        remote.run(["sh", "-c", "kill -9 $$"], step="run")
    assert remote.read(["echo", "still here"], step="look") == "still here\n"


def test_put_and_get_are_byte_exact(remote: SshRemote) -> None:
    """Both ends of asyncio once lost the last packets of an upload: hence several times."""
    chunks = [MEGABYTES_5[i : i + 100_001] for i in range(0, len(MEGABYTES_5), 100_001)]
    digest = hashlib.sha256(MEGABYTES_5).hexdigest()
    for _ in range(5):
        assert remote.put(iter(chunks), ["sha256sum"], step="push").split()[0] == digest
    remote.put(iter([MEGABYTES_5]), ["sh", "-c", "cat > five"], step="push")
    sink = io.BytesIO()
    assert remote.get(["cat", "five"], sink, step="pull") == len(MEGABYTES_5)
    assert sink.getvalue() == MEGABYTES_5


def test_both_directions_at_once_do_not_block(remote: SshRemote) -> None:
    """5 MB up and down through one command, and 5 MB of errors beside it: more than any window or pipe holds."""
    argv = ["sh", "-c", "tee /dev/stderr"]
    assert len(remote.put(iter([b"x" * 5_000_000]), argv, step="push")) == 5_000_000


def test_command_may_leave_its_input_unread(remote: SshRemote) -> None:
    assert remote.put(iter([MEGABYTES_5]), ["sh", "-c", "head -c 1 >/dev/null; echo ok"], step="push") == "ok\n"


def test_error_of_the_stream_ends_the_command(remote: SshRemote) -> None:
    def stream() -> Iterator[bytes]:
        yield b"first"
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        remote.put(stream(), ["cat"], step="push")


def test_error_of_the_sink_is_the_callers_own(remote: SshRemote) -> None:
    class Full(io.BytesIO):
        def write(self, _data: object) -> int:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        remote.get(["cat", "/dev/zero"], Full(), step="pull")


def test_lines_arrive_while_the_command_runs(remote: SshRemote) -> None:
    """The command waits for a file that is made only when its first line has arrived."""
    lines: list[str] = []

    def on_line(line: str) -> None:
        lines.append(line)
        if line == "ready":
            remote.run(["touch", "seen"], step="answer")

    script = 'rm -f seen; echo ready; until [ -e seen ]; do :; done; echo ""; printf "no newline"'
    assert remote.run(["sh", "-c", script], step="watch", on_line=on_line) == ""
    assert lines == ["ready", "", "no newline"]


def test_close_ends_a_stream_in_another_thread(lab: Inventory) -> None:
    remote, started, errors = ssh.connect(lab.server), threading.Event(), list[HostError]()

    def watch() -> None:
        try:
            remote.run(["sh", "-c", "echo on; exec sleep 600"], step="watch", on_line=lambda _: started.set())
        except HostError as error:
            errors.append(error)

    thread = threading.Thread(target=watch)
    thread.start()
    assert started.wait(10)
    remote.close()
    thread.join(2)
    assert not thread.is_alive()
    assert [(error.host, error.step) for error in errors] == [("server", "watch")]
    assert "closed here" in str(errors[0])
    remote.close()
    with pytest.raises(HostError):
        remote.read(["true"], step="after")


def test_words_go_out_while_answers_come_back(remote: SshRemote, said: Said) -> None:
    """Each word is said only when the one before has been answered; the end of the words is that of the input."""
    answers: list[str] = []

    def on_line(line: str) -> None:
        answers.append(line)
        said.say(b"%d\n" % len(answers) if len(answers) < 100 else None)

    said.say(b"0\n")
    assert remote.run(["cat"], step="talk", stdin=said, on_line=on_line) == ""
    assert answers == [f"{number}" for number in range(100)]


def test_words_may_be_said_to_a_command_that_answers_at_the_end(remote: SshRemote, said: Said) -> None:
    for word in (b"b\n", b"a\n", None):
        said.say(word)
    assert remote.run(["sort"], step="sort", stdin=said) == "a\nb\n"


def test_a_command_that_ends_first_ends_the_words(remote: SshRemote, said: Said) -> None:
    """Nobody says the next word, for which the feeding thread waits: it is let go, and the command has succeeded."""
    assert remote.run(["true"], step="talk", stdin=said, on_line=lambda _: None) == ""
    assert said.closed
    with pytest.raises(CommandFailed):
        remote.run(["false"], step="talk", stdin=said, on_line=lambda _: None)


def test_an_error_while_listening_ends_the_words(remote: SshRemote, said: Said) -> None:
    def on_line(line: str) -> None:
        raise LookupError(line)

    said.say(b"hm\n")
    with pytest.raises(LookupError, match="hm"):
        remote.run(["cat"], step="talk", stdin=said, on_line=on_line)
    assert said.closed


def test_close_ends_words_in_another_thread(lab: Inventory, said: Said) -> None:
    """Both threads of a conversation end when the connection is closed, also while nobody says anything."""
    remote = ssh.connect(lab.server)
    said.say(b"hello\n")
    with ThreadPoolExecutor(1) as pool:
        answered = threading.Event()
        talk = pool.submit(remote.run, ["cat"], step="talk", stdin=said, on_line=lambda _: answered.set())
        assert answered.wait(10)
        remote.close()
        with pytest.raises(HostError, match="server: talk: the connection was closed here"):
            talk.result(5)
    assert said.closed


def test_silent_command_times_out(remote: SshRemote, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time-out counts from the last byte in any direction, not from the start."""
    monkeypatch.setattr("deploy.remote.verbs._IDLE_S", 0.4)
    busy = "for i in 1 2 3 4 5; do sleep 0.15; echo $i >&2; done"
    assert remote.run(["sh", "-c", busy], step="busy") == ""
    with pytest.raises(HostError, match=r"no data for .* while running: sleep"):
        remote.run(["sleep", "600"], step="stuck")
