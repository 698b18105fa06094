"""Logging in: what is refused, why, and what the message says."""

from __future__ import annotations

import contextlib
import io
import shlex
import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import paramiko
import psutil
import pytest

from deploy.errors import HostError
from deploy.inventory import Ssh
from deploy.remote import ssh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deploy.inventory import Host, Inventory


@pytest.fixture
def host(lab: Inventory) -> Host:
    return lab.server


def changed(host: Host, **settings: object) -> Host:
    """Return the host with other SSH settings."""
    return msgspec.structs.replace(host, ssh=msgspec.structs.replace(host.ssh, **settings))


def refusal(host: Host) -> str:
    with pytest.raises(HostError) as caught:
        ssh.connect(host)
    assert (caught.value.host, caught.value.step) == ("server", "connect")
    return caught.value.reason


def make_key(file: Path, passphrase: str = "") -> Path:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", file], check=True)
    return file


def known_line(host: Host) -> str:
    """The host's line of the lab's known_hosts."""
    assert host.ssh.known_hosts
    lines = Path(host.ssh.known_hosts).read_text().splitlines()
    return next(line for line in lines if line.startswith(f"[127.0.0.1]:{host.ssh.port} "))


def fingerprint_of(host: Host) -> str:
    """The fingerprint as OpenSSH itself prints it."""
    told = subprocess.run(
        ["ssh-keygen", "-l", "-f", "-"], input=known_line(host), text=True, capture_output=True, check=True
    )
    return told.stdout.split()[1]


@contextlib.contextmanager
def listener(banner: bytes, *, hang_up: bool = False) -> Iterator[int]:
    """A server that accepts one connection, says `banner`, and then nothing for ever."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(banner)
                while not hang_up and connection.recv(4096):
                    pass

        served = pool.submit(serve)
        yield server.getsockname()[1]
        served.result(10)


@contextlib.contextmanager
def cable(host: Host, known_hosts: Path) -> Iterator[tuple[Host, Callable[[], None]]]:
    """The host, reached through a relay; calling the second value cuts the connection in both directions."""
    ends: list[socket.socket] = []

    def cut() -> None:
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def copy(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        cut()

    def relay() -> None:
        ends.append(server.accept()[0])
        ends.append(socket.create_connection(("127.0.0.1", host.ssh.port or 22)))
        other = pool.submit(copy, *ends)
        copy(ends[1], ends[0])
        other.result(10)

    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(2) as pool:
        port = server.getsockname()[1]
        known_hosts.write_text(known_line(host).replace(f":{host.ssh.port} ", f":{port} "))
        relayed = pool.submit(relay)
        try:
            yield changed(host, port=port, known_hosts=str(known_hosts)), cut
        finally:
            cut()
            relayed.result(10)
            for end in ends:
                end.close()


def test_wrong_key(host: Host, tmp_path: Path) -> None:
    key = make_key(tmp_path / "other")
    assert "authentication failed" in refusal(changed(host, identity_file=str(key)))


def test_key_with_passphrase_and_no_agent(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    key = make_key(tmp_path / "locked", "a passphrase")
    reason = refusal(changed(host, identity_file=str(key)))
    assert "passphrase" in reason
    assert "ssh-add" in reason


def test_key_that_does_not_exist(host: Host, tmp_path: Path) -> None:
    assert str(tmp_path / "none") in refusal(changed(host, identity_file=str(tmp_path / "none")))


def test_key_that_is_none(host: Host, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a key")
    assert "not a private key" in refusal(changed(host, identity_file=str(tmp_path / "text")))


def test_unknown_host_key(host: Host, tmp_path: Path) -> None:
    """Never trusted on first use: the message shows the fingerprint and says what to do; no file is made."""
    reason = refusal(changed(host, known_hosts=str(tmp_path / "none")))
    assert fingerprint_of(host) in reason
    assert f"[127.0.0.1]:{host.ssh.port} is not in {tmp_path / 'none'}" in reason
    assert reason.endswith("deploy trust INVENTORY")
    assert not (tmp_path / "none").exists()


def test_changed_host_key(host: Host, tmp_path: Path) -> None:
    other = make_key(tmp_path / "other").with_suffix(".pub").read_text()
    (tmp_path / "known").write_text(f"[127.0.0.1]:{host.ssh.port} {other}")
    reason = refusal(changed(host, known_hosts=str(tmp_path / "known")))
    assert "WARNING" in reason
    assert "CHANGED" in reason
    assert fingerprint_of(host) in reason
    assert "ssh-keygen -R" in reason


def test_revoked_host_key(host: Host, tmp_path: Path) -> None:
    line = known_line(host)
    (tmp_path / "known").write_text(f"{line}\n@revoked {line}\n")
    assert "revoked" in refusal(changed(host, known_hosts=str(tmp_path / "known")))


def test_hashed_and_further_host_keys(host: Host, tmp_path: Path) -> None:
    """As OpenSSH writes them: the host's name hashed; an older key of the same host stands before the right one."""
    known = tmp_path / "known"
    older = make_key(tmp_path / "older").with_suffix(".pub").read_text()
    known.write_text(f"[127.0.0.1]:{host.ssh.port} {older}{known_line(host)}\n")
    subprocess.run(["ssh-keygen", "-q", "-H", "-f", known], check=True, capture_output=True)
    with ssh.connect(changed(host, known_hosts=str(known))) as remote:
        assert remote.read(["echo", "in"], step="look") == "in\n"


def test_nothing_listens(host: Host) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert "refused" in refusal(changed(host, port=unused.getsockname()[1]))


@pytest.mark.parametrize("name", ["no such name", "bad..name"])
def test_name_not_resolvable(host: Host, name: str) -> None:
    assert "cannot be resolved" in refusal(msgspec.structs.replace(host, host=name))


@pytest.mark.parametrize("banner", [b"", b"SSH-2.0-mute\r\n"])
def test_server_that_says_nothing(host: Host, banner: bytes) -> None:
    with listener(banner) as port:
        reason = refusal(changed(host, port=port, connect_timeout_s=0.3))
    assert "no answer within 0.3 s" in reason


def test_server_that_hangs_up(host: Host) -> None:
    with listener(b"", hang_up=True) as port:
        assert refusal(changed(host, port=port))


def test_ssh_config_and_jump_host(lab: Inventory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Host, port, user and key come from ~/.ssh/config; the jump host's key is checked as strictly as the host's."""
    (tmp_path / ".ssh").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    target, jump = lab.server, lab.clients[0]
    config = "".join(
        f"Host {alias}\n HostName 127.0.0.1\n Port {host.ssh.port}\n IdentityFile {host.ssh.identity_file}\n{extra}"
        for alias, host, extra in (("target", target, " ProxyJump gw\n"), ("gw", jump, ""))
    )
    (tmp_path / ".ssh" / "config").write_text(config)
    known = tmp_path / ".ssh" / "known_hosts"
    host = msgspec.structs.replace(target, host="target", ssh=Ssh())
    known.write_text(known_line(target) + "\n")
    assert f"the jump host 127.0.0.1:{jump.ssh.port}: its SSH host key is not known yet" in refusal(host)
    known.write_text(f"{known_line(target)}\n{known_line(jump)}\n")
    with ssh.connect(host) as remote:
        assert remote.read(["sh", "-c", "echo $HOME"], step="look").strip().endswith("/server")


def test_proxy_command(host: Host, lab: Inventory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process ends with the connection. Fabric takes its %p from ~/.ssh/config alone, so the port stands there."""
    (tmp_path / ".ssh").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    jump = lab.clients[0].ssh
    proxy = f"ssh -F none -o BatchMode=yes -o UserKnownHostsFile={jump.known_hosts} -i {jump.identity_file}"
    (tmp_path / ".ssh" / "config").write_text(
        f"Host 127.0.0.1\n Port {host.ssh.port}\n ProxyCommand {proxy} -p {jump.port} -W %h:%p 127.0.0.1\n"
    )
    before = psutil.Process().children()
    with ssh.connect(host) as remote:
        assert remote.read(["echo", "in"], step="look") == "in\n"
        assert len(psutil.Process().children()) == len(before) + 1
    assert psutil.Process().children() == before


def test_connection_lost_during_get(host: Host, tmp_path: Path) -> None:
    """The cable is cut in the middle of a transfer: an error, never a short file that looks complete."""
    with cable(host, tmp_path / "known") as (relayed, cut), ssh.connect(relayed) as remote:

        class Sink(io.BytesIO):
            def write(self, data: bytes) -> int:
                cut()
                return super().write(data)

        with pytest.raises(HostError, match="server: pull: the connection was lost"):
            remote.get(["cat", "/dev/zero"], Sink(), step="pull")


class HalfAnswer(paramiko.ServerInterface):
    """A host that reports success and then loses its power, with half of the output still to come."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.marker = b""

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:  # noqa: ARG002
        return paramiko.AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, chanid: int) -> int:  # noqa: ARG002
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:  # noqa: ARG002
        self.marker = "".join(shlex.split(command.decode())[5:7]).encode()
        self.asked.set()
        return True


def test_success_with_half_of_the_output_is_no_success(host: Host, tmp_path: Path) -> None:
    """OpenSSH sends the exit status as soon as the command ends, which may be before its output."""
    key = paramiko.Ed25519Key.from_private_key_file(str(make_key(tmp_path / "host_key")))

    def serve() -> None:
        transport, answer = paramiko.Transport(server.accept()[0]), HalfAnswer()
        transport.add_server_key(key)
        transport.start_server(server=answer)
        channel = transport.accept(10)
        assert answer.asked.wait(10)
        channel.send_exit_status(0)
        channel.sendall(answer.marker + b"half")
        transport.sock.shutdown(socket.SHUT_RDWR)
        transport.join(10)

    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        port = server.getsockname()[1]
        (tmp_path / "known").write_text(f"[127.0.0.1]:{port} {key.get_name()} {key.get_base64()}\n")
        served, sink = pool.submit(serve), io.BytesIO()
        there = changed(host, port=port, known_hosts=str(tmp_path / "known"))
        lost = pytest.raises(HostError, match="the connection was lost while running: cat")
        with ssh.connect(there) as remote, lost:
            remote.get(["cat", "all"], sink, step="pull")
        assert sink.getvalue() == b"half"
        served.result(10)
