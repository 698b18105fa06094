"""Logs in to hosts over SSH, by Fabric and paramiko: with `transport` and `route` all that knows of these.

Fabric resolves ~/.ssh/config (user, port, identity, ProxyJump) and connects; commands then run on channels of its
transport, because Invoke's runners poll standard input and mirror it. Nothing is ever written to known_hosts.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import paramiko

from deploy.errors import HostError, HostKeyRefused
from deploy.remote.asking import Answers, Ask, NobodyToAsk, Secret, WrongAnswer
from deploy.remote.hostkeys import ShownKey
from deploy.remote.login import Key, Keyring, Library, Login, Plan
from deploy.remote.route import SSH_PORT, connection_to, hops_of, known_host
from deploy.remote.transport import FOREIGN, Link, new_transport, relax, shut
from deploy.remote.verbs import SshRemote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fabric import Connection

    from deploy.inventory import Host
    from deploy.remote.hostkeys import KnownHost

CONNECT = "connect"
TRUST = "trust"
# Without a handler, Python would print paramiko's own report, with a stack trace, beside our error.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


def connect(host: Host) -> SshRemote:
    """Log in to a host, asking nobody; HostError (step `connect`) says what is wrong and what to do about it."""
    return Connector(None)(host)


class Connector:
    """Logs in to hosts; asks the person at `ask` once for each password and passphrase (None: nobody is there).

    Many threads may use it at once.
    """

    def __init__(self, ask: Ask | None) -> None:
        self._answers: Answers[Key] = Answers(ask)

    def __call__(self, host: Host) -> SshRemote:
        """Log in to a host; HostError (step `connect`) says what is wrong and what to do about it."""
        return SshRemote(host.name, functools.partial(self._link, host))

    def host_key(self, host: Host) -> ShownKey:
        """Ask a host for its key without logging in there; its jump hosts are. HostError (step `trust`)."""
        attempt = _Attempt(host, Keyring(_LIBRARY, self._answers), TRUST)
        with _explained(attempt):
            try:
                _opened(_prepared(attempt, key_only=True), attempt)
            except _KeyShownError as shown:
                return shown.key
        raise AssertionError(host.name)  # the policy raises for every key

    def _link(self, host: Host) -> Link:
        attempt = _Attempt(host, Keyring(_LIBRARY, self._answers), CONNECT)
        with _explained(attempt):
            while True:
                try:
                    return _opened(_prepared(attempt), attempt)
                except paramiko.AuthenticationException:
                    # Only now, with the connection closed: a host does not wait for long for a login.
                    if not attempt.keyring.unlock():
                        raise


@dataclass
class _Attempt:
    """One attempt to reach a host, for what an error has to say."""

    host: Host
    keyring: Keyring
    step: str
    started: float = 0.0
    stuck_at: Connection | None = None
    """The jump host that is to blame."""

    def restart(self) -> None:
        """Count the time from here."""
        self.started = time.monotonic()


class _OnlyKnownKeys(paramiko.MissingHostKeyPolicy):
    """Refuses every host key that known_hosts does not hold. It decides alone: paramiko is given no keys."""

    def __init__(self, attempt: _Attempt, known: KnownHost, hop: str) -> None:
        self._attempt, self._known, self._hop = attempt, known, hop

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:  # noqa: ARG002
        refusal = self._known.refusal(key.get_name(), key.asbytes())
        if refusal:
            raise HostKeyRefused(self._attempt.host.name, self._attempt.step, f"{self._hop}{refusal}")


class _KeyShownError(Exception):
    """Ends a connection before its login; `key` is what it was made for."""

    def __init__(self, key: ShownKey) -> None:
        super().__init__()
        self.key = key


class _ShowKey(paramiko.MissingHostKeyPolicy):
    """Ends every connection as soon as the host has shown its key."""

    def __init__(self, known: KnownHost) -> None:
        self._known = known

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:  # noqa: ARG002
        raise _KeyShownError(ShownKey(key.get_name(), key.asbytes(), self._known))


def _prepared(attempt: _Attempt, *, key_only: bool = False) -> Connection:
    """Return a connection that is ready to be opened; with `key_only`, up to the host's key."""
    attempt.restart()
    connection = connection_to(attempt.host)
    for hop in hops_of(connection):
        known, own = known_host(hop, attempt.host), hop is connection
        show = own and key_only
        plan = None if show else _plan(hop, attempt, own=own)
        attempt.restart()  # the plan may have had to ask for a password
        _prepare(hop, attempt, known, plan)
        where = "" if own else _of_jump_host(hop)
        hop.client.set_missing_host_key_policy(_ShowKey(known) if show else _OnlyKnownKeys(attempt, known, where))
    return connection


def _prepare(hop: Connection, attempt: _Attempt, known: KnownHost, plan: Plan | None) -> None:
    """Give one hop its time-outs, keys and host keys, none of which Fabric sets by itself."""
    wait_s = attempt.host.ssh.connect_timeout_s
    hop.connect_timeout = wait_s  # as an argument, Fabric would cut it down to whole seconds
    hop.connect_kwargs = {
        "auth_strategy": None if plan is None else Login(plan, attempt.keyring),
        "banner_timeout": wait_s,
        "auth_timeout": wait_s,
        "channel_timeout": wait_s,
        "transport_factory": functools.partial(new_transport, key_types=known.key_types, wait_s=wait_s),
    }


def _opened(connection: Connection, attempt: _Attempt) -> Link:
    """Open a connection, through its jump hosts, and return it; nothing of it stays if that fails."""
    try:
        connection.open()
    except BaseException:
        attempt.stuck_at = next((hop for hop in reversed(hops_of(connection)[1:]) if hop.transport is None), None)
        _shut(connection)
        raise
    for hop in hops_of(connection):
        relax(hop.transport)
    return Link(connection.transport, functools.partial(_shut, connection))


def _shut(connection: Connection) -> None:
    """Close a connection and its jump hosts, however far they got; Fabric closes neither half-open nor jump hosts."""
    for hop in hops_of(connection):
        shut(hop.client)


def _plan(hop: Connection, attempt: _Attempt, *, own: bool) -> Plan:
    """Say how to authenticate: by the inventory's key alone, else as ~/.ssh/config says, else by agent and defaults."""
    ssh = attempt.host.ssh
    identity = () if ssh.identity_file is None else (Path(ssh.identity_file).expanduser(),)
    locked = not all(attempt.keyring.key(file) for file in identity)
    if own and ssh.password is not None:
        password = attempt.keyring.answers.password(f"{hop.user}@{hop.host}")
        return Plan(hop.user, identity, agent=locked, password=password)
    if own and identity:
        return Plan(hop.user, identity, agent=locked)
    files = tuple(Path(file) for file in hop.ssh_config.get("identityfile", []))
    if ssh.jump is not None:  # a jump host that the inventory names takes the inventory's key too
        files = (*files, *identity)
    only = hop.ssh_config.get("identitiesonly") == "yes"
    return Plan(hop.user, files, agent=True, agent_only_for_files=only, defaults=not only)


def _load(file: Path, passphrase: Secret | None) -> paramiko.PKey | None:
    return _loaded(file) if passphrase is None else _unlocked(file, passphrase)


@functools.cache
def _loaded(file: Path) -> paramiko.PKey | None:
    """Load a key once (189 ms for RSA); None if it has a passphrase."""
    try:
        return paramiko.PKey.from_path(file)
    except TypeError:  # cryptography 50: "Key is password-protected, but password was not provided."
        return None
    except (ValueError, paramiko.pkey.UnknownKeyType) as error:
        raise paramiko.SSHException(f"identity file {file} is not a private key that can be read") from error


def _unlocked(file: Path, passphrase: Secret) -> paramiko.PKey:
    try:
        return paramiko.PKey.from_path(file, password=passphrase.reveal().encode())  # type: ignore[arg-type] # stubs: str
    except (ValueError, TypeError, paramiko.SSHException) as error:
        raise WrongAnswer from error


@contextlib.contextmanager
def _agent() -> Iterator[Iterable[paramiko.PKey]]:
    """Give the keys of the SSH agent; none if there is no agent."""
    agent = paramiko.Agent()
    try:
        yield agent.get_keys()
    finally:
        agent.close()


_LIBRARY = Library(_load, _agent, paramiko.AuthenticationException, paramiko.SSHException)


@contextlib.contextmanager
def _explained(attempt: _Attempt) -> Iterator[None]:
    """Turn what goes wrong into a HostError that says why."""
    try:
        yield
    except (*FOREIGN, UnicodeError, NobodyToAsk) as error:  # UnicodeError: a name that IDNA cannot encode, as a..b
        reason = _why(error, attempt, time.monotonic() - attempt.started)
        raise HostError(attempt.host.name, attempt.step, reason) from error


def _why(error: BaseException, attempt: _Attempt, waited_s: float) -> str:
    """Say in a sentence why a connection failed, and at which jump host if at one."""
    hop = attempt.stuck_at
    if hop is None:
        return _why_at(error, attempt, waited_s, attempt.host.host)
    return _of_jump_host(hop) + _why_at(error, attempt, waited_s, hop.host)


def _of_jump_host(hop: Connection) -> str:
    return f"the jump host {hop.host}{'' if hop.port == SSH_PORT else f':{hop.port}'}: "


def _why_at(error: BaseException, attempt: _Attempt, waited_s: float, address: str) -> str:
    ssh = attempt.host.ssh
    if isinstance(error, NobodyToAsk):
        return "its password has to be asked for (ssh.password), and there is no terminal to ask at: log in with a key"
    if isinstance(error, TimeoutError) or (  # paramiko 5.1 reports its own time-outs in many ways
        isinstance(error, paramiko.SSHException | EOFError) and waited_s >= ssh.connect_timeout_s
    ):
        return (
            f"no answer within {ssh.connect_timeout_s:g} s (connect_timeout_s): is {address} on, and the right address?"
        )
    if isinstance(error, paramiko.ssh_exception.NoValidConnectionsError):
        return f"connection refused or no route: is an SSH server running there? ({error.strerror})"
    if isinstance(error, socket.gaierror | UnicodeError):
        return f"the name {address!r} cannot be resolved ({error})"
    if isinstance(error, paramiko.AuthenticationException):
        return _why_not_authenticated(error, attempt)
    if isinstance(error, paramiko.ChannelException):
        return f"the jump host cannot reach {address} ({error.text})"
    if isinstance(error, EOFError | ConnectionError):
        return "the host closed the connection before the login was complete"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename or address}"
    return f"{error}"


def _why_not_authenticated(error: paramiko.AuthenticationException, attempt: _Attempt) -> str:
    ssh, locked = attempt.host.ssh, attempt.keyring.given_up
    if isinstance(error, paramiko.BadAuthenticationType):
        tried = f"authentication failed: the host takes {', '.join(error.allowed_types) or 'nothing that we have'} only"
    elif ssh.password is not None:
        tried = "authentication failed: the password was not accepted"
    elif ssh.identity_file is not None:
        tried = f"authentication failed: the host does not accept the key of {ssh.identity_file} for this user"
    else:
        tried = "authentication failed: no key of the SSH agent, of ~/.ssh/config or of ~/.ssh was accepted"
    if not locked:
        return tried
    files = ", ".join(map(str, locked))
    return f"{tried}; not tried, since a passphrase protects it: {files} (ssh-add {locked[0]})"
