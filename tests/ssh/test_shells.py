"""Login shells of all kinds, with profiles that print: by real shells behind OpenSSH's sshd."""

from __future__ import annotations

import hashlib
import io
import os
import resource
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from deploy.errors import CommandFailed, HostError
from deploy.remote import ssh

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Bench

    from deploy.inventory import Host


NOISE = "echo Welcome to pi; echo '  disk quota: 3 %' >&2; printf 'no newline'; "


@pytest.fixture(params=["sh", "bash", "zsh", "fish"])
def login_shell(request: pytest.FixtureRequest, bench: Bench) -> Host:
    """A user of that shell, whose profile prints on both outputs: sshd hands the shell what we asked for."""
    program = shutil.which(request.param)
    if program is None:
        pytest.skip(f"{request.param} is not installed")
    text = f'{NOISE}\nHOME={bench.place} exec {program} -c "$SSH_ORIGINAL_COMMAND"'
    return bench.new_host(ForceCommand=bench.script(text))


def test_every_login_shell_gives_the_command_its_argv_and_us_its_output(login_shell: Host) -> None:
    """Noise of a profile gets into no result; quotes, backslashes and newlines arrive as they are."""
    word = "it's a \\ \"test\"\n$HOME `id` \\' ünï"
    with ssh.connect(login_shell) as remote:
        assert remote.read(["printf", "%s|", word, "", "end"], step="look") == f"{word}||end|"
        assert remote.run(["cat"], step="feed", stdin=b"in\0put") == "in\0put"
        lines: list[str] = []
        remote.run(["printf", "one\\ntwo\\n"], step="watch", on_line=lines.append)
        assert lines == ["one", "two"]


def test_every_login_shell_passes_bytes(login_shell: Host) -> None:
    """Binary streams are exact in both directions."""
    data = os.urandom(300_000)
    with ssh.connect(login_shell) as remote:
        told = remote.put(iter([data[:100_000], data[100_000:]]), ["sha256sum"], step="push")
        assert told.split()[0] == hashlib.sha256(data).hexdigest()
        sink = io.BytesIO()
        assert remote.get(["head", "-c", "300000", "/dev/zero"], sink, step="pull") == 300_000
        assert sink.getvalue() == bytes(300_000)


def test_every_login_shell_passes_errors(login_shell: Host) -> None:
    """Status and words of a failed command are its own, not the profile's."""
    with ssh.connect(login_shell) as remote:
        with pytest.raises(CommandFailed) as caught:
            remote.run(["sh", "-c", "echo bad >&2; exit 7"], step="run")
        assert (caught.value.status, caught.value.output.split()) == (7, ["bad"])
        with pytest.raises(CommandFailed) as caught:
            remote.run(["no-such-program"], step="run")
        assert caught.value.status == 127
        assert "no-such-program" in caught.value.output


@pytest.mark.parametrize("stream", ["", " >&2"])
def test_account_without_a_shell(bench: Bench, stream: str) -> None:
    """As nologin, or a profile that ends with `exit`: the error shows what was said, and that nothing ran."""
    script = bench.script(f"echo This account is currently not available.{stream}\nexit 1")
    with ssh.connect(bench.new_host(ForceCommand=script)) as remote, pytest.raises(HostError) as caught:
        remote.run(["touch", str(bench.place / "ran")], step="start")
    assert not isinstance(caught.value, CommandFailed)
    assert "pi: start: the user's login shell ended with status 1 before it came to touch" in str(caught.value)
    assert "This account is currently not available." in str(caught.value)


def test_silent_account_without_a_shell(bench: Bench) -> None:
    """Also one that says nothing and claims success."""
    port = bench.start(ForceCommand="/bin/true")
    with ssh.connect(bench.host(port)) as remote, pytest.raises(HostError, match="status 0 before it came to id"):
        remote.read(["id"], step="look")


def test_profile_that_never_stops_printing(bench: Bench) -> None:
    script = bench.script("exec yes")
    port = bench.start(ForceCommand=script)
    with ssh.connect(bench.host(port)) as remote, pytest.raises(HostError, match="printed more than 1 MB before"):
        remote.read(["id"], step="look")


def test_a_gigabyte_of_output_is_an_error_and_fills_no_memory(bench: Bench) -> None:
    """What is read into memory is bounded; the connection is of use afterwards."""
    with ssh.connect(bench.new_host()) as remote:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(HostError, match="look: more than 16 MB of output while running: head"):
            remote.read(["head", "-c", "1G", "/dev/zero"], step="look")
        lines = 0

        def count(line: str) -> None:
            nonlocal lines
            lines += len(line)

        remote.run(["head", "-c", "100M", "/dev/zero"], step="watch", on_line=count)
        assert lines == 100 << 20
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10
        assert remote.read(["echo", "fine"], step="look") == "fine\n"


def test_more_commands_at_once_than_the_host_allows(bench: Bench) -> None:
    """The session that is opened ahead takes none from the commands: all that the host allows can run."""
    started, go = threading.Barrier(3), threading.Event()
    with ssh.connect(bench.new_host(MaxSessions=2)) as remote, ThreadPoolExecutor(2) as pool:
        argv = ["sh", "-c", "echo on; exec cat"]
        running = [pool.submit(remote.put, waiting(started, go), argv, step="run") for _ in range(2)]
        started.wait(10)
        with pytest.raises(HostError, match="one too many: the host refuses another session"):
            remote.read(["true"], step="one too many")
        go.set()
        assert [future.result(10) for future in running] == ["on\nend", "on\nend"]
        assert remote.read(["echo", "in"], step="look") == "in\n"


def waiting(started: threading.Barrier, go: threading.Event) -> Iterator[bytes]:
    """Input that ends when the test says so; it is asked for only once the command runs."""
    started.wait(10)
    go.wait(10)
    yield b"end"


def test_many_verbs_at_once(bench: Bench) -> None:
    """From many threads on one connection, each gets its own answer."""
    with ssh.connect(bench.new_host(MaxSessions=50)) as remote, ThreadPoolExecutor(20) as pool:
        words = [f"word {i}" for i in range(100)]
        assert list(pool.map(lambda word: remote.read(["echo", word], step="look"), words)) == [f"{w}\n" for w in words]
