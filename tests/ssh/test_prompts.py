"""Passphrases and passwords, asked for by a person who is a function here."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import paramiko
import pytest

from deploy.errors import ConnectionLost
from deploy.remote import ssh
from deploy.remote.asking import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Bench

    from deploy.inventory import Host


PROMPT = {"identity_file": None, "password": "prompt"}


class Person:
    """Answers every prompt alike, and remembers them."""

    def __init__(self, answer: str) -> None:
        self.answer, self.prompts = answer, list[str]()

    def __call__(self, prompt: str) -> Secret:
        self.prompts.append(prompt)
        return Secret(self.answer)


@pytest.fixture
def locked(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host whose key has a passphrase, and no agent."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    argv = ["ssh-keygen", "-q", "-p", "-P", "", "-N", "open sesame", "-f", bench.identity_file]
    subprocess.run(argv, check=True, capture_output=True)
    return bench.new_host()


def test_passphrase_is_asked_for_once(bench: Bench, locked: Host) -> None:
    """By however many hosts, and for a connection that was lost, too."""
    person = Person("open sesame")
    connector = ssh.Connector(person)
    with ThreadPoolExecutor(5) as pool:
        remotes = list(pool.map(connector, [locked] * 5))
    try:
        assert person.prompts == [f"Passphrase of {bench.identity_file}: "]
        bench.kill_connections()
        with contextlib.suppress(ConnectionLost):  # unless the loss is noticed before
            remotes[0].read(["true"], step="look")
        assert remotes[0].read(["echo", "in"], step="look") == "in\n"
        assert len(person.prompts) == 1
    finally:
        for remote in remotes:
            remote.close()


def test_wrong_passphrase_and_none(bench: Bench, locked: Host) -> None:
    person = Person("wrong")
    assert f"not tried, since a passphrase protects it: {bench.identity_file}" in bench.refusal(locked, person)
    assert len(person.prompts) == 3
    assert f"(ssh-add {bench.identity_file})" in bench.refusal(locked)


def test_agent_comes_before_the_prompt(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A key that the agent holds is not asked for."""
    port, socket_path = bench.start(), tmp_path / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", socket_path], stdout=subprocess.PIPE) as agent:
        try:
            assert agent.stdout is not None
            agent.stdout.readline()
            monkeypatch.setenv("SSH_AUTH_SOCK", str(socket_path))
            subprocess.run(["ssh-add", "-q", bench.identity_file], check=True, capture_output=True)
            argv = ["ssh-keygen", "-q", "-p", "-P", "", "-N", "secret", "-f", bench.identity_file]
            subprocess.run(argv, check=True, capture_output=True)
            person = Person("")
            with ssh.Connector(person)(bench.host(port)) as remote:
                assert remote.read(["echo", "in"], step="look") == "in\n"
            assert person.prompts == []
        finally:
            agent.terminate()


class PasswordOnly(paramiko.ServerInterface):
    """A server that lets in who knows the password."""

    def get_allowed_auths(self, username: str) -> str:  # noqa: ARG002
        return "password"

    def check_auth_password(self, username: str, password: str) -> int:
        return paramiko.AUTH_SUCCESSFUL if (username, password) == ("kim", "right") else paramiko.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:  # noqa: ARG002
        return paramiko.OPEN_SUCCEEDED


@contextlib.contextmanager
def password_server(bench: Bench, logins: int) -> Iterator[int]:

    key = paramiko.Ed25519Key.from_private_key_file(str(bench.place / "host_key"))

    def serve() -> None:
        for _ in range(logins):
            transport = paramiko.Transport(server.accept()[0])
            transport.add_server_key(key)
            with contextlib.suppress(paramiko.SSHException, EOFError):
                transport.start_server(server=PasswordOnly())
            transports.append(transport)

    transports: list[paramiko.Transport] = []
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:
        port = server.getsockname()[1]
        bench.know_as(f"[127.0.0.1]:{port}")
        served = pool.submit(serve)
        try:
            yield port
            served.result(10)
        finally:
            for transport in transports:
                transport.close()


def test_password_is_asked_for_once(bench: Bench) -> None:
    with password_server(bench, 2) as port:
        person = Person("right")
        connector = ssh.Connector(person)
        for _ in range(2):
            connector(bench.host(port, user="kim", **PROMPT)).close()
        assert person.prompts == ["Password of kim@127.0.0.1: "]


def test_wrong_password(bench: Bench) -> None:
    with password_server(bench, 1) as port:
        reason = bench.refusal(bench.host(port, user="kim", **PROMPT), Person("hunter2"))
    assert "the password was not accepted" in reason
    assert "hunter2" not in reason


def test_password_without_a_terminal(bench: Bench) -> None:
    """Said before anything is sent."""
    reason = bench.refusal(bench.host(bench.openssh.free_port(), **PROMPT))
    assert "there is no terminal to ask at" in reason


def test_host_that_takes_passwords_only(bench: Bench) -> None:
    with password_server(bench, 1) as port:
        assert "the host takes password only" in bench.refusal(bench.host(port, user="kim"))
