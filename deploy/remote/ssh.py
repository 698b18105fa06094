"""The five verbs over SSH, by Fabric and paramiko; no other module of the toolkit imports these.

Fabric resolves ~/.ssh/config (user, port, identity, ProxyJump) and connects; commands then run on channels of its
transport, because Invoke's runners poll standard input and mirror it. Nothing is ever written to known_hosts.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import shlex
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import paramiko
from fabric import Config, Connection

from deploy.errors import HostError
from deploy.remote.hostkeys import KnownHost, entries_for
from deploy.remote.session import Broken, Command, Session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import TracebackType
    from typing import BinaryIO

    from deploy.inventory import Host, Ssh

_CONNECT = "connect"
_IDLE_S = 60.0
_SSH_PORT = 22
_FOREIGN = (OSError, EOFError, paramiko.SSHException)
_SYSTEM_CONFIG = Path("/etc/ssh/ssh_config")
_SYSTEM_KNOWN_HOSTS = Path("/etc/ssh/ssh_known_hosts")
# 32 KiB cost 2 µs with AES-GCM, 22 µs with the ctr + hmac that paramiko 5.1 prefers.
_FAST_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
# A host that loses its power says nothing: the kernel asks it, and gives up after a minute without any answer.
_TCP_OPTIONS = (
    ("TCP_NODELAY", 1),  # paramiko 5.1 leaves Nagle's algorithm on: 45 ms for each authentication and each command
    ("TCP_KEEPIDLE", 30),
    ("TCP_KEEPINTVL", 10),
    ("TCP_KEEPCNT", 3),
    ("TCP_USER_TIMEOUT", 60_000),
)

# Without a handler, Python would print paramiko's own report, with a stack trace, beside our error.
logging.getLogger("paramiko").addHandler(logging.NullHandler())


def connect(host: Host) -> SshRemote:
    """Log in to a host; HostError (step `connect`) says what is wrong and what to do about it."""
    started = time.monotonic()
    try:
        return SshRemote(host.name, _open(host))
    except (*_FOREIGN, UnicodeError) as error:  # UnicodeError: a host name that IDNA cannot encode, as a..b
        reason = _why(error, host.ssh, host.host, time.monotonic() - started)
        raise HostError(host.name, _CONNECT, reason) from error


class SshRemote:
    """A logged-in host; see `deploy.remote.protocol.Remote`. Several threads may use its verbs at once."""

    def __init__(self, host: str, connection: Connection) -> None:
        self._host, self._connection = host, connection
        self._transport: paramiko.Transport = connection.transport
        self._closed_here = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def host(self) -> str:
        """The host's name in the inventory."""
        return self._host

    def read(self, argv: Sequence[str], *, step: str, stdin: bytes = b"") -> str:
        """Run a command that only looks, and return its standard output."""
        return self._text(self._command(argv, step), (stdin,))

    def run(
        self, argv: Sequence[str], *, step: str, stdin: bytes = b"", on_line: Callable[[str], None] | None = None
    ) -> str:
        """Run a command that may change the host; with `on_line`, without time-out and returning nothing."""
        if on_line is None:
            return self._text(self._command(argv, step), (stdin,))
        lines = _Lines(on_line)
        self._execute(Command(self.host, step, tuple(argv), idle_s=None), (stdin,), lines.add)
        lines.end()
        return ""

    def put(self, stream: Iterator[bytes], argv: Sequence[str], *, step: str) -> str:
        """Feed chunks of bytes to a command, and return its standard output."""
        return self._text(self._command(argv, step), stream)

    def get(self, argv: Sequence[str], sink: BinaryIO, *, step: str) -> int:
        """Copy the standard output of a command into `sink`; return the number of bytes."""
        count = 0

        def keep(data: bytes) -> None:
            nonlocal count
            sink.write(data)
            count += len(data)

        self._execute(Command(self.host, step, tuple(argv), _IDLE_S, binary=True), (), keep)
        return count

    def close(self) -> None:
        """Close the connection; what runs in other threads ends with HostError."""
        self._closed_here = True
        _shut(self._connection)

    def _command(self, argv: Sequence[str], step: str) -> Command:
        return Command(self.host, step, tuple(argv), _IDLE_S)

    def _text(self, command: Command, stdin: Iterable[bytes]) -> str:
        output = bytearray()
        self._execute(command, stdin, output.extend)
        return output.decode(errors="replace")

    def _execute(self, command: Command, stdin: Iterable[bytes], sink: Callable[[bytes], object]) -> None:
        """Run a command to its end; return only if its exit status is 0."""
        session = Session(self._channel(command), command, _FOREIGN)
        try:
            status = session.exchange(stdin, sink)
        except Broken as error:
            raise command.broken(self._loss(error.__cause__)) from error.__cause__
        if (status < 0 or not session.complete) and self._is_lost():
            raise command.broken(self._loss(None))
        if status != 0:
            raise command.failed(status, session.tail)

    def _channel(self, command: Command) -> paramiko.Channel:
        try:
            channel = self._transport.open_session(timeout=_IDLE_S)
            channel.exec_command(shlex.join(command.argv))
        except _FOREIGN as error:
            raise command.broken(self._loss(error)) from error
        return channel

    def _loss(self, error: BaseException | None) -> str:
        if self._closed_here:
            return "the connection was closed here"
        if isinstance(error, paramiko.ChannelException):
            return f"the host refuses another session ({error.text})"
        if error is None or isinstance(error, EOFError) or not self._transport.is_active():
            return "the connection was lost"
        return f"the connection failed ({error})"

    def _is_lost(self) -> bool:
        """Tell a lost connection from a command killed by a signal: paramiko 5.1 reports neither."""
        self._transport.join(0.5)  # its thread closes the channels a moment before it is seen as inactive
        return self._closed_here or not self._transport.is_active()


class _Lines:
    """Cuts a stream of bytes into lines."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line, self._rest = on_line, b""

    def add(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._on_line(line.decode(errors="replace"))

    def end(self) -> None:
        if self._rest:
            self._on_line(self._rest.decode(errors="replace"))


class _OnlyKnownKeys(paramiko.MissingHostKeyPolicy):
    """Refuses every host key that known_hosts does not hold. It decides alone: paramiko is given no keys."""

    def __init__(self, host: str, known: KnownHost) -> None:
        self._host, self._known = host, known

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:  # noqa: ARG002
        refusal = self._known.refusal(key.get_name(), key.asbytes())
        if refusal:
            raise HostError(self._host, _CONNECT, refusal)


def _open(host: Host) -> Connection:
    connection = Connection(
        host.host,
        user=host.ssh.user,
        port=host.ssh.port,
        # One configuration each: a shared one is empty for a moment while another connection opens (fabric 3.2.3).
        # Lazy: ~/.fabric.yaml and FABRIC_… variables have no say here.
        config=Config(lazy=True, ssh_config=_ssh_config(Path.home())),
    )
    try:
        for hop in _hops(connection):
            _prepare(hop, host, _identity(hop, host.ssh if hop is connection else None))
        connection.open()
    except BaseException:
        _shut(connection)
        raise
    return connection


def _hops(connection: Connection) -> list[Connection]:
    """Return the connection and, after it, the jump hosts that it goes through, the nearest to us last."""
    hops = [connection]
    while isinstance(hops[-1].gateway, Connection):
        hops.append(hops[-1].gateway)
    return hops


def _prepare(hop: Connection, host: Host, identity: dict[str, Any]) -> None:
    """Give one hop its time-outs, keys and host keys, none of which Fabric sets by itself."""
    known = _known_host(hop, host.ssh)
    wait_s = host.ssh.connect_timeout_s
    hop.client.set_missing_host_key_policy(_OnlyKnownKeys(host.name, known))
    hop.connect_timeout = wait_s  # as an argument, Fabric would cut it down to whole seconds
    hop.connect_kwargs = identity | {
        "banner_timeout": wait_s,
        "auth_timeout": wait_s,
        "channel_timeout": wait_s,
        "transport_factory": functools.partial(_transport, key_types=known.key_types, wait_s=wait_s),
    }


def _identity(hop: Connection, ssh: Ssh | None) -> dict[str, Any]:
    """Say how to authenticate: by the inventory's key alone, else as ~/.ssh/config says, else by agent and defaults."""
    if ssh is not None and ssh.identity_file is not None:
        key = _private_key(Path(ssh.identity_file).expanduser())
        return {"pkey": key, "allow_agent": key is None, "look_for_keys": False}
    files = [file for file in hop.ssh_config.get("identityfile", []) if Path(file).is_file()]
    only = hop.ssh_config.get("identitiesonly") == "yes"
    return {"key_filename": files, "allow_agent": not only, "look_for_keys": not only}


@functools.cache
def _private_key(file: Path) -> paramiko.PKey | None:
    """Load a key once (189 ms for RSA); None if it has a passphrase: then the agent must hold it."""
    try:
        return paramiko.PKey.from_path(file)
    except TypeError:  # cryptography 50: "Key is password-protected, but password was not provided."
        return None
    except (ValueError, paramiko.pkey.UnknownKeyType) as error:
        raise paramiko.SSHException(f"identity file {file} is not a private key that can be read") from error


def _known_host(hop: Connection, ssh: Ssh) -> KnownHost:
    address = hop.host if hop.port == _SSH_PORT else f"[{hop.host}]:{hop.port}"
    name = hop.ssh_config.get("hostkeyalias", address)
    files = [Path(ssh.known_hosts).expanduser()] if ssh.known_hosts else [*_user_files(hop), _SYSTEM_KNOWN_HOSTS]
    entries = tuple(entry for file in files for entry in entries_for(file, name))
    option = ("-o", f"UserKnownHostsFile={files[0]}") if ssh.known_hosts else ()
    return KnownHost(name, files[0], ("ssh", *option, "-p", f"{hop.port}", f"{hop.user}@{hop.host}"), entries)


def _user_files(hop: Connection) -> list[Path]:
    named = hop.ssh_config.get("userknownhostsfile", "~/.ssh/known_hosts ~/.ssh/known_hosts2")
    return [Path(file).expanduser() for file in named.split()]


@functools.cache
def _ssh_config(home: Path) -> paramiko.SSHConfig:
    """Read ~/.ssh/config and the system's once; the first answer to a question counts, as with OpenSSH."""
    config = paramiko.SSHConfig()
    for file in (home / ".ssh" / "config", _SYSTEM_CONFIG):
        with contextlib.suppress(FileNotFoundError), file.open() as text:
            config.parse(text)
    return config


def _transport(
    sock: socket.socket,
    *,
    key_types: Sequence[str],
    wait_s: float,
    disabled_algorithms: dict[str, Iterable[str]] | None,
) -> paramiko.Transport:
    """Make a transport that asks for the host keys that we know, and for fast ciphers, first."""
    _tune(sock)
    transport = paramiko.Transport(sock, disabled_algorithms=disabled_algorithms)
    transport.handshake_timeout = wait_s
    options = transport.get_security_options()
    options.ciphers = _first(_FAST_CIPHERS, options.ciphers)
    options.key_types = _first(key_types, options.key_types)
    return transport


def _tune(sock: socket.socket) -> None:
    if isinstance(sock, socket.socket):  # not the channel of a jump host, nor a ProxyCommand
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _TCP_OPTIONS:
            if hasattr(socket, name):  # every system has others
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _first(preferred: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    return (*(item for item in preferred if item in known), *(item for item in known if item not in preferred))


def _shut(connection: Connection) -> None:
    """Close a connection and its jump hosts, however far they got; Fabric closes neither half-open nor jump hosts."""
    for hop in _hops(connection):
        transport = hop.client.get_transport()
        with contextlib.suppress(*_FOREIGN):  # paramiko still wants to say good-bye through a lost jump host
            if transport is not None and isinstance(transport.sock, socket.socket):
                # paramiko's thread sees a closed socket only after 0.1 s, a shut one at once.
                transport.sock.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(*_FOREIGN):
            hop.client.close()
        if transport is not None:
            _release(transport)


def _release(transport: paramiko.Transport) -> None:
    """Take back what paramiko 5.1 leaves of a transport: its socket, its ProxyCommand's process, its thread."""
    sock: Any = transport.sock  # paramiko's type stubs leave ProxyCommand out
    with contextlib.suppress(*_FOREIGN):
        sock.close()
    if transport.is_alive():
        transport.join(1.0)
    if isinstance(sock, paramiko.ProxyCommand):  # was killed, but neither waited for nor its pipes closed
        with sock.process:
            pass


def _why(error: BaseException, ssh: Ssh, address: str, waited_s: float) -> str:
    """Say in a sentence why a connection failed."""
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
    # Without any key to try, paramiko 5.1 raises its root exception.
    if isinstance(error, paramiko.AuthenticationException) or "No authentication methods" in str(error):
        return _why_not_authenticated(ssh)
    if isinstance(error, paramiko.ChannelException):
        return f"the jump host cannot reach {address} ({error.text})"
    if isinstance(error, EOFError | ConnectionError):
        return "the host closed the connection before the login was complete"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename or address}"
    return f"{error}"


def _why_not_authenticated(ssh: Ssh) -> str:
    if ssh.identity_file is None:
        return "authentication failed: no key of the SSH agent, of ~/.ssh/config or of ~/.ssh was accepted"
    if _private_key(Path(ssh.identity_file).expanduser()) is None:
        return (
            f"authentication failed: {ssh.identity_file} has a passphrase, and no key of the SSH agent was accepted"
            f" (ssh-add {ssh.identity_file})"
        )
    return f"authentication failed: the host does not accept the key of {ssh.identity_file} for this user"
