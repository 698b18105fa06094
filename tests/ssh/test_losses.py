"""Faults on real OpenSSH sshd: refused, changed, silent, cut in the middle; and what the next verb does."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil
import pytest

from deploy.errors import ConnectionLost, HostError
from deploy.remote import ssh

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Bench, Said


def test_wrong_key(bench: Bench, tmp_path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    reason = bench.refusal(bench.host(bench.start(), identity_file=str(tmp_path / "other")))
    assert reason == f"authentication failed: the host does not accept the key of {tmp_path / 'other'} for this user"


def test_wrong_user(bench: Bench) -> None:
    assert "authentication failed" in bench.refusal(bench.host(bench.start(), user="nobody-of-that-name"))


def test_changed_host_key(bench: Bench) -> None:
    """Stops before any secret is shown to whoever answers; another key of the same host is known."""
    host = bench.new_host()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", bench.place / "older"], check=True)
    older = (bench.place / "older.pub").read_text()
    (bench.place / "known_hosts").write_text(f"[127.0.0.1]:{host.ssh.port} {older}")
    reason = bench.refusal(host)
    assert "WARNING: its SSH host key has CHANGED" in reason
    assert f"ssh-keygen -R '[127.0.0.1]:{host.ssh.port}'" in reason


def test_host_whose_command_hangs_is_not_lost(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent command is the command's fault while the host still answers: no ConnectionLost."""
    monkeypatch.setattr("deploy.remote.verbs._IDLE_S", 0.3)
    with ssh.connect(bench.new_host()) as remote:
        with pytest.raises(HostError, match=r"no data for .* while running: sleep") as caught:
            remote.run(["sleep", "600"], step="stuck")
        assert not isinstance(caught.value, ConnectionLost)
        assert remote.read(["echo", "in"], step="look") == "in\n"


def test_host_that_falls_silent_is_lost(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a power failure: nothing ends the connection, but nothing answers either (sshd is stopped)."""
    monkeypatch.setattr("deploy.remote.verbs._IDLE_S", 0.3)
    monkeypatch.setattr("deploy.remote.verbs._ANSWER_S", 0.3)
    with ssh.connect(bench.new_host()) as remote:
        (session,) = bench.sessions()
        stopped = [session, *session.children(recursive=True)]
        for process in stopped:
            process.suspend()
        try:
            with pytest.raises(ConnectionLost, match="no longer answers"):
                remote.run(["true"], step="stuck")
        finally:
            for process in stopped:
                with suppress(psutil.NoSuchProcess):  # one that was let go may have ended the next
                    process.resume()
        assert remote.read(["echo", "again"], step="look") == "again\n"


def test_lost_in_the_middle_of_a_command(bench: Bench) -> None:
    """The session's process is killed: an error once; the next verb has a new connection."""
    with ssh.connect(bench.new_host()) as remote:
        with pytest.raises(ConnectionLost, match="pi: watch: the connection was lost while running: sh"):
            remote.run(
                ["sh", "-c", "echo on; exec sleep 600"], step="watch", on_line=lambda _: bench.kill_connections()
            )
        assert remote.read(["echo", "again"], step="look") == "again\n"


def test_lost_in_the_middle_of_a_conversation(bench: Bench, said: Said) -> None:
    """Words are closed, so that nothing waits for them any more; new ones may be said over a new connection."""
    said.say(b"hello\n")
    with ssh.connect(bench.new_host()) as remote:
        with pytest.raises(ConnectionLost, match="pi: talk: the connection was lost while running: cat"):
            remote.run(["cat"], step="talk", stdin=said, on_line=lambda _: bench.kill_connections())
        assert said.closed
        assert remote.read(["echo", "again"], step="look") == "again\n"


def test_lost_in_the_middle_of_a_put(bench: Bench) -> None:
    """Never a success; the next put starts from the beginning and is exact."""
    data = os.urandom(4_000_000)

    def stream() -> Iterator[bytes]:
        yield data[:2_000_000]
        bench.kill_connections()
        yield data[2_000_000:]

    with ssh.connect(bench.new_host()) as remote:
        with pytest.raises(ConnectionLost):
            remote.put(stream(), ["sha256sum"], step="push")
        told = remote.put(iter([data]), ["sha256sum"], step="push")
        assert told.split()[0] == hashlib.sha256(data).hexdigest()


def test_lost_in_the_middle_of_a_get(bench: Bench) -> None:
    """What arrived is a beginning of the file, so that a pull can go on from there."""

    class Sink(io.BytesIO):
        def write(self, data: bytes) -> int:
            if not self.tell():
                relay.cut()
            return super().write(data)

    (bench.place / "file").write_bytes(content := os.urandom(30_000_000))
    with bench.relayed() as (host, relay), ssh.connect(host) as remote:
        sink = Sink()
        with pytest.raises(ConnectionLost):
            remote.get(["cat", str(bench.place / "file")], sink, step="pull")
        got = sink.tell()
        assert 0 < got < len(content)
        rest = remote.get(["tail", "-c", f"+{got + 1}", str(bench.place / "file")], io.BytesIO(), step="pull")
        assert got + rest == len(content)
        assert content.startswith(sink.getvalue())
        assert relay.connections == 2


def test_many_threads_share_one_new_connection(bench: Bench) -> None:
    with bench.relayed() as (host, relay), ssh.connect(host) as remote, ThreadPoolExecutor(8) as pool:
        with pytest.raises(ConnectionLost):
            remote.run(["sh", "-c", "echo on; exec sleep 600"], step="watch", on_line=lambda _: relay.cut())
        answers = list(pool.map(lambda word: remote.read(["echo", word], step="look"), "abcdefgh"))
        assert answers == [f"{word}\n" for word in "abcdefgh"]
        assert relay.connections == 2


def test_connecting_again_may_be_refused(bench: Bench) -> None:
    """As any connect; a closed Remote does not even try."""
    with bench.relay_to(bench.start()) as relay:
        bench.know_as(f"[127.0.0.1]:{relay.port}")
        remote = ssh.connect(bench.host(relay.port))
    with pytest.raises(HostError):
        remote.read(["true"], step="look")
    with pytest.raises(HostError, match="pi: connect: connection refused"):
        remote.read(["true"], step="look")
    remote.close()
    with pytest.raises(HostError, match="look: the connection was closed here"):
        remote.read(["true"], step="look")


def test_closed_means_closed(bench: Bench) -> None:
    with bench.relayed() as (host, relay):
        remote = ssh.connect(host)
        remote.close()
        with pytest.raises(HostError, match="closed here"):
            remote.read(["true"], step="look")
        assert relay.connections == 1
