"""One connection of paramiko's: tuned, shut down at once, with a session ready before the next command needs it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import paramiko
from paramiko.common import cMSG_CHANNEL_OPEN, cMSG_CHANNEL_REQUEST

from deploy.remote.verbs import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

FOREIGN = (OSError, EOFError, paramiko.SSHException)
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
# paramiko 5.1 wakes up every 0.1 s to see whether it was closed, which costs 2.5 % of a core for 100 idle hosts.
_WAKE_UP_S = 5.0
_REFUSED_PAUSES_S = (0.0, 0.05, 0.2, 0.5)


class Link:
    """One logged-in connection; see `deploy.remote.verbs.Link`.

    A session for the next command is opened while the last one runs: one round trip less for each.
    """

    foreign: tuple[type[Exception], ...] = FOREIGN

    def __init__(self, transport: Transport, shut: Callable[[], None]) -> None:
        self._transport, self._shut = transport, shut
        self._lock = threading.Lock()
        self._spare: _Opening | None = self._transport.ask_for_session()

    def session(self, command: bytes, timeout_s: float) -> paramiko.Channel:
        """Ask for a session that runs a command line, without waiting for its answer."""
        channel = self._open_session(timeout_s)
        self._transport.execute(channel, command)
        with self._lock:
            if self._spare is None:
                self._spare = self._transport.ask_for_session()
        return channel

    def _open_session(self, timeout_s: float) -> paramiko.Channel:
        """Return the session that was opened ahead, or a new one.

        Not refused at once: what has just ended still counts for a moment against what the host allows (MaxSessions),
        and another thread may just have taken the last one, to open it ahead.
        """
        for pause_s in _REFUSED_PAUSES_S:
            time.sleep(pause_s)
            with self._lock:
                spare, self._spare = self._spare, None
            channel = self._transport.opened(spare, timeout_s) if spare else None
            channel = channel or self._transport.opened(self._transport.ask_for_session(), timeout_s)
            if channel is not None:
                return channel
        error = self._transport.get_exception()
        raise Refused(error.text if isinstance(error, paramiko.ChannelException) else "no reason given")

    def is_lost(self, patience_s: float = 0.0) -> bool:
        """Tell whether the connection is gone; its thread notices a moment after its channels."""
        if patience_s:
            self._transport.join(patience_s)
        return not self._transport.is_active()

    def answers(self, within_s: float) -> bool:
        """Ask for one more session: yes and no are both answers."""
        try:
            opening = self._transport.ask_for_session()
            answered = opening.answered.wait(within_s)
            opening.channel.close()
        except FOREIGN:
            return False
        return answered and self._transport.is_active()

    def close(self) -> None:
        """Take everything back."""
        self._shut()


class _Opening(NamedTuple):
    """A session that was asked for; the host's answer, yes or no, sets the event."""

    channel: paramiko.Channel
    answered: threading.Event


class Transport(paramiko.Transport):
    """paramiko's, with questions that do not wait for their answers."""

    # What begins with an underscore is paramiko's own; tests/ssh/test_verbs.py fails if a release changes it.
    _send_user_message: Any
    _next_channel: Any
    _channels: Any

    def ask_for_session(self) -> _Opening:
        """Ask for a session; as `open_session`, but without waiting."""
        if not self.is_active():
            raise EOFError("the connection is gone")
        with self.lock:
            number = self._next_channel()
            channel: Any = paramiko.Channel(number)
            answered = self.channel_events[number] = threading.Event()
            self._channels.put(number, channel)
            self.channels_seen[number] = True
            channel._set_transport(self)  # noqa: SLF001
            channel._set_window(self.default_window_size, self.default_max_packet_size)  # noqa: SLF001
        message = paramiko.Message()
        message.add_byte(cMSG_CHANNEL_OPEN)
        message.add_string("session")
        for value in (number, self.default_window_size, self.default_max_packet_size):
            message.add_int(value)
        self._send_user_message(message)
        return _Opening(channel, answered)

    def opened(self, opening: _Opening, timeout_s: float) -> paramiko.Channel | None:
        """Wait for the host's answer and return the session; None if it is refused, or was closed since."""
        deadline = time.monotonic() + timeout_s
        while not opening.answered.wait(1.0):  # in steps: who asks while the connection ends may miss the event
            if not self.is_active():
                break
            if time.monotonic() > deadline:
                raise TimeoutError("no answer to the request for a session")
        if not self.is_active():
            raise EOFError("the connection is gone")
        return opening.channel if opening.channel.active and not opening.channel.closed else None

    def execute(self, channel: paramiko.Channel, command: bytes) -> None:
        """Run a command line on a session; a host that refuses closes the channel."""
        message = paramiko.Message()
        message.add_byte(cMSG_CHANNEL_REQUEST)
        message.add_int(channel.remote_chanid)
        message.add_string("exec")
        message.add_boolean(True)  # noqa: FBT003 - paramiko's signature
        message.add_string(command)
        self._send_user_message(message)

    def _parse_global_request(self, message: paramiko.Message) -> None:
        """Handle what the host says unasked, and acknowledge it at once.

        After a login, OpenSSH sends its host keys and then holds back its next packet (Nagle's algorithm), until our
        kernel's delayed acknowledgement comes: 43 ms for each connection.
        """
        super()._parse_global_request(message)  # type: ignore[misc] # not in paramiko's type stubs
        if isinstance(self.sock, socket.socket) and hasattr(socket, "TCP_QUICKACK"):
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def new_transport(
    sock: socket.socket,
    *,
    key_types: Sequence[str],
    wait_s: float,
    disabled_algorithms: dict[str, Iterable[str]] | None,
) -> Transport:
    """Make a transport that asks for the host keys that we know, and for fast ciphers, first."""
    _tune(sock)
    transport = Transport(sock, disabled_algorithms=disabled_algorithms)
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


def relax(transport: paramiko.Transport) -> None:
    """Let a connection that is logged in sleep for longer; what is not ended by closing it stays as it is."""
    if isinstance(transport.sock, socket.socket | paramiko.Channel):
        transport.sock.settimeout(_WAKE_UP_S)


def shut(client: paramiko.SSHClient) -> None:
    """Close a client however far it got, and take back what paramiko 5.1 leaves of it."""
    transport = client.get_transport()
    with contextlib.suppress(*FOREIGN):  # paramiko still wants to say good-bye through a lost jump host
        # paramiko's thread sees a closed socket only when its wait is over, a shut one at once.
        if transport is not None and isinstance(transport.sock, socket.socket):
            transport.sock.shutdown(socket.SHUT_RDWR)
        elif transport is not None and isinstance(transport.sock, paramiko.Channel):
            transport.sock.close()
    with contextlib.suppress(*FOREIGN):
        client.close()
    if transport is not None:
        _release(transport)


def _release(transport: paramiko.Transport) -> None:
    """Take back what paramiko 5.1 leaves of a transport: its socket, its ProxyCommand's process, its thread."""
    sock: Any = transport.sock  # paramiko's type stubs leave ProxyCommand out
    with contextlib.suppress(*FOREIGN):
        sock.close()
    if transport.is_alive():
        transport.join(1.0)
    if isinstance(sock, paramiko.ProxyCommand):  # was killed, but neither waited for nor its pipes closed
        with sock.process:
            pass
