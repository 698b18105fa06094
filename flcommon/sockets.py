"""What the kernel knows of this process's own TCP connections (tcp(7), TCP_INFO), without privileges. Linux only.

The sockets are gRPC's. They are found in /proc/self/fd, and each look at one takes a duplicate of its descriptor and
gives it back: a duplicate that is kept would keep a connection open that gRPC has closed.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from flcommon.events import Tcp

if TYPE_CHECKING:
    from collections.abc import Iterator

Address = tuple[str, int]
"""An IP address in its shortest form, and a port. Where a connection is asked for, no address means any."""

LOOK_AGAIN_S = 1.0
"""A connection that was not found is looked for again after this long: looking costs 10 µs for each that there is."""
_DESCRIPTORS = Path("/proc/self/fd")
_INFO_BYTES, _NAME_BYTES = 256, 16
_ESTABLISHED = b"\1"
_UNKNOWN_RTT = 0xFFFFFFFF
# Offsets in struct tcp_info (linux/tcp.h), which only ever grows. Of u32; times in ms or, after the second row, µs:
_SEGMENT, _UNACKED, _LOST = 16, 24, 32
_LAST_DATA_RECV, _LAST_ACK_RECV = 52, 56
_RTT, _RTT_VAR, _WINDOW, _RETRANSMITTED, _NOT_SENT, _RTT_MIN = 68, 72, 80, 100, 144, 148
# Of u64; times in µs:
_ACKED, _RECEIVED, _RATE, _BUSY, _WINDOW_LIMITED, _BUFFER_LIMITED, _SENT = 120, 128, 160, 168, 176, 184, 200


@dataclass(frozen=True)
class Connection:
    """One TCP connection: who is at the other end, and for how long nothing has come from there.

    While bytes are on their way there, not even an acknowledgement; else no data.
    """

    peer: Address
    silent_s: float


@dataclass(frozen=True)
class _Socket:
    """A socket that somebody else owns. Its number may be another's tomorrow: the inode tells."""

    number: int
    inode: int
    peer: Address
    congestion: str
    info: bytes

    def tcp(self) -> Tcp | None:
        """Return how its connection is doing now, None if that has ended."""
        with suppress(OSError), _duplicate(self.number) as one:
            if os.fstat(one.fileno()).st_ino == self.inode:
                info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
                return tcp_of(info, self.congestion) if _is_open(info) else None
        return None


class Sockets:
    """This process's connections by their peers: each is found once, and again when it has been replaced.

    Used from many threads.
    """

    def __init__(self) -> None:
        self._known: dict[Address, _Socket] = {}
        self._missing: set[Address] = set()
        self._looked_s = 0.0
        self._looking = threading.Lock()

    def tcp(self, peer: Address) -> Tcp | None:
        """Return how the connection to this peer is doing; None if there is none, or the system does not tell.

        Of several, such as one that is about to be closed, it is the one on which something came last.
        """
        known = self._known.get(peer)
        if known is not None and (tcp := known.tcp()) is not None:
            return tcp
        found = self._find(peer, known)
        return found.tcp() if found is not None else None

    def _find(self, peer: Address, before: _Socket | None) -> _Socket | None:
        with self._looking:
            known = self._known.get(peer)
            if known is not before:  # somebody else has looked meanwhile
                return known
            if peer in self._missing and time.monotonic() - self._looked_s < LOOK_AGAIN_S:
                return None
            self._look(peer)
            return self._known.get(peer)

    def _look(self, peer: Address) -> None:
        at = time.monotonic()
        if at - self._looked_s >= LOOK_AGAIN_S:
            self._missing.clear()
        there = sorted(filter(lambda one: _is_open(one.info), _sockets()), key=_silence, reverse=True)
        host, port = peer
        self._known = {one.peer: one for one in there}
        matching = [one for one in there if one.peer == peer or (not host and one.peer[1] == port)]
        if matching:
            self._known[peer] = matching[-1]
        else:
            self._missing.add(peer)
        self._looked_s = at


def connections() -> list[Connection]:
    """Return this process's connections; none where the kernel does not tell. Costs some 10 microseconds for each."""
    return [Connection(one.peer, _silent_s(one.info)) for one in _sockets()]


def tcp_of(info: bytes, congestion: str = "") -> Tcp:
    """Return what a struct tcp_info says, of any length: a kernel of another age tells less, or more."""
    rtt, rtt_min = _u32(info, _RTT), _u32(info, _RTT_MIN)
    return Tcp(
        rtt_ms=_scaled(rtt or None, 1e3),
        rtt_var_ms=_scaled(_u32(info, _RTT_VAR) if rtt else None, 1e3),
        rtt_min_ms=_scaled(rtt_min if rtt_min != _UNKNOWN_RTT else None, 1e3),
        retransmitted=_u32(info, _RETRANSMITTED),
        lost=_u32(info, _LOST),
        delivery_rate_mbit=_scaled(_u64(info, _RATE) or None, 1e6 / 8),
        sent_bytes=_u64(info, _SENT),
        acked_bytes=_u64(info, _ACKED),
        received_bytes=_u64(info, _RECEIVED),
        busy_s=_scaled(_u64(info, _BUSY), 1e6),
        window_limited_s=_scaled(_u64(info, _WINDOW_LIMITED), 1e6),
        buffer_limited_s=_scaled(_u64(info, _BUFFER_LIMITED), 1e6),
        congestion_window=_u32(info, _WINDOW),
        segment_bytes=_u32(info, _SEGMENT),
        congestion=congestion,
    )


def dialled(target: str) -> Address:
    """Return whom to ask for, of a connection to `host:port`: by a name that may be any address."""
    host, _, port = target.rpartition(":")
    return peer_address(f":{host}:{port}") or ("", int(port))


def _sockets() -> Iterator[_Socket]:
    """Yield the TCP sockets of this process that have a peer."""
    if not hasattr(socket, "TCP_INFO") or not _DESCRIPTORS.is_dir():
        return
    for entry in list(_DESCRIPTORS.iterdir()):
        with suppress(OSError):
            if (found := _looked_at(entry)) is not None:
                yield found


def _looked_at(entry: Path) -> _Socket | None:
    """Return the socket that a descriptor stands for, None if it is of another kind; raises OSError."""
    if not str(entry.readlink()).startswith("socket:"):
        return None
    number = int(entry.name)
    with _duplicate(number) as one:
        peer = address(one.getpeername())
        info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
        if peer is None or len(info) < _NOT_SENT + 4:
            return None
        congestion = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _NAME_BYTES)
        return _Socket(number, os.fstat(one.fileno()).st_ino, peer, congestion.rstrip(b"\0").decode("ascii"), info)


@contextmanager
def _duplicate(number: int) -> Iterator[socket.socket]:
    """Give a descriptor's socket for the length of a with-block; raises OSError if it is none."""
    descriptor = os.dup(number)
    try:
        one = socket.socket(fileno=descriptor)
    except OSError:
        os.close(descriptor)
        raise
    with one:
        yield one


def peer_address(peer: str) -> Address | None:
    """Return the address that gRPC calls `ipv4:192.0.2.1:50123` or `ipv6:%5B2001:db8::1%5D:50123`."""
    host, _, port = unquote(peer.partition(":")[2]).rpartition(":")
    return address((host.strip("[]"), int(port))) if port.isdecimal() else None


def address(name: object) -> Address | None:
    """Return a socket's name as an address: IPv4 in IPv6's clothes as IPv4, without scope; None for other kinds."""
    if not isinstance(name, tuple):
        return None
    try:
        found = ipaddress.ip_address(str(name[0]).partition("%")[0])
    except ValueError:
        return None
    return str(getattr(found, "ipv4_mapped", None) or found), int(name[1])


def _silence(one: _Socket) -> int:
    return _u32(one.info, _LAST_DATA_RECV) or 0


def _is_open(info: bytes) -> bool:
    return info[:1] == _ESTABLISHED


def _silent_s(info: bytes) -> float:
    on_the_way = _u32(info, _UNACKED) or _u32(info, _NOT_SENT)
    return (_u32(info, _LAST_ACK_RECV if on_the_way else _LAST_DATA_RECV) or 0) / 1000


def _u32(info: bytes, offset: int) -> int | None:
    """Return a field, None if this kernel does not have it."""
    return int.from_bytes(info[offset : offset + 4], sys.byteorder) if len(info) >= offset + 4 else None


def _u64(info: bytes, offset: int) -> int | None:
    return int.from_bytes(info[offset : offset + 8], sys.byteorder) if len(info) >= offset + 8 else None


def _scaled(value: int | None, unit: float) -> float | None:
    return value / unit if value is not None else None
