"""What the kernel knows of this process's own TCP connections (tcp(7), TCP_INFO), without privileges. Linux only.

The sockets are gRPC's, found in /proc/self/fd. Nothing is held of them but number and inode: a duplicate that is kept
would keep a connection open that gRPC has closed.
"""

from __future__ import annotations

import ctypes
import ipaddress
import os
import socket
import struct
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

from flcommon.events import Tcp

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Address = tuple[str, int]
"""An IP address in its shortest form, and a port. Where a connection is asked for, no address means any."""

LOOK_AGAIN_S = 1.0
"""A connection that was not found is looked for again after this long: all descriptors have to be looked at."""
_DESCRIPTORS = "/proc/self/fd"
_INFO_BYTES, _NAME_BYTES = 256, 16
_ESTABLISHED = 1
_UNKNOWN_RTT = 0xFFFFFFFF
# Offsets in struct tcp_info (linux/tcp.h), which only ever grows: all u32, milliseconds and bytes.
_UNACKED, _LAST_DATA_RECV, _LAST_ACK_RECV, _NOT_SENT = 24, 52, 56, 144
# The same struct with gaps where nothing is of interest here, and where each of the other fields ends.
_LAYOUT = struct.Struct("=16xI 12xI 32x2I 4xI 16xI 16x2Q 12xI 8x4Q 8xQ")
_ENDS = (20, 36, 72, 76, 84, 104, 128, 136, 152, 168, 176, 184, 192, 208)
_libc = ctypes.CDLL(None)
"""Lets go of Python's lock while it calls: a thread of gRPC that is just sending has the socket's, and may keep it."""


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

    def info(self) -> bytes:
        """Return its struct tcp_info; nothing if it is gone."""
        buffer = ctypes.create_string_buffer(_INFO_BYTES)
        length = ctypes.c_uint32(_INFO_BYTES)
        where = (self.number, socket.IPPROTO_TCP, socket.TCP_INFO)
        if _libc.getsockopt(*where, buffer, ctypes.byref(length)) != 0:
            return b""
        try:  # only now: a number that still stands for it has done so all the time
            same = os.fstat(self.number).st_ino == self.inode
        except OSError:
            return b""
        return buffer.raw[: length.value] if same else b""


class Sockets:
    """This process's connections by their peers: each is found once, and again when it has been replaced.

    Used from many threads.
    """

    def __init__(self) -> None:
        self._there: dict[int, _Socket] = {}
        self._known: dict[Address, _Socket] = {}
        self._missing: set[Address] = set()
        self._looked_s = 0.0
        self._looking = threading.Lock()

    def tcp(self, peer: Address) -> Tcp | None:
        """Return how the connection to this peer is doing; None if there is none, or the system does not tell.

        Of several, such as one that is about to be closed, it is the one on which something came last.
        """
        known = self._known.get(peer)
        info = known.info() if known is not None else b""
        if known is None or not _is_open(info):
            known = self._find(peer, known)
            info = known.info() if known is not None else b""
        return tcp_of(info, known.congestion) if known is not None and _is_open(info) else None

    def _find(self, peer: Address, before: _Socket | None) -> _Socket | None:
        with self._looking:
            known = self._known.get(peer)
            if known is not before:  # somebody else has looked meanwhile
                return known
            if peer in self._missing and time.monotonic() - self._looked_s < LOOK_AGAIN_S:
                return None
            return self._look(peer)

    def _look(self, peer: Address) -> _Socket | None:
        at = time.monotonic()
        if at - self._looked_s >= LOOK_AGAIN_S:
            self._missing.clear()
        self._looked_s = at
        self._there = {one.inode: one for one in _sockets(self._there)}
        self._known = {one.peer: one for one in self._there.values()}
        host, port = peer
        candidates = [one for one in self._there.values() if one.peer == peer or (not host and one.peer[1] == port)]
        infos = [(info, one) for one in candidates if _is_open(info := one.info())]
        if not infos:
            self._known.pop(peer, None)
            self._missing.add(peer)
            return None
        _, self._known[peer] = min(infos, key=lambda found: _u32(found[0], _LAST_DATA_RECV))
        return self._known[peer]


def connections() -> list[Connection]:
    """Return this process's connections; none where the kernel does not tell. Costs some 10 microseconds for each."""
    found = [(one.peer, one.info()) for one in _sockets({})]
    return [Connection(peer, _silent_s(info)) for peer, info in found if len(info) >= _NOT_SENT + 4]


def tcp_of(info: bytes, congestion: str = "") -> Tcp:
    """Return what a struct tcp_info says, of any length: a kernel of another age tells less, or more."""
    (
        segment,
        lost,
        rtt,
        rtt_var,
        window,
        retransmitted,
        acked,
        received,
        rtt_min,
        rate,
        busy,
        by_window,
        by_buffer,
        sent,
    ) = _fields(info)
    return Tcp(
        rtt_ms=rtt / 1e3 if rtt else None,
        rtt_var_ms=rtt_var / 1e3 if rtt and rtt_var is not None else None,
        rtt_min_ms=rtt_min / 1e3 if rtt_min not in {None, _UNKNOWN_RTT} else None,
        retransmitted=retransmitted,
        lost=lost,
        delivery_rate_mbit=rate * 8 / 1e6 if rate else None,
        sent_bytes=sent,
        acked_bytes=acked,
        received_bytes=received,
        busy_s=busy / 1e6 if busy is not None else None,
        window_limited_s=by_window / 1e6 if by_window is not None else None,
        buffer_limited_s=by_buffer / 1e6 if by_buffer is not None else None,
        congestion_window=window,
        segment_bytes=segment,
        congestion=congestion,
    )


def _fields(info: bytes) -> tuple[int | None, ...]:
    """Return the fields of `_LAYOUT`, None for those that this kernel does not have."""
    length = len(info)
    if length >= _LAYOUT.size:
        return _LAYOUT.unpack_from(info)
    fields = _LAYOUT.unpack(info.ljust(_LAYOUT.size, b"\0"))
    return tuple(field if length >= end else None for field, end in zip(fields, _ENDS, strict=True))


def dialled(target: str) -> Address:
    """Return whom to ask for, of a connection to `host:port`: by a name that may be any address."""
    host, _, port = target.rpartition(":")
    return peer_address(f":{host}:{port}") or ("", int(port))


def _sockets(known: Mapping[int, _Socket]) -> Iterator[_Socket]:
    """Yield the TCP sockets of this process that have a peer; those that are known, by inode, are not looked at."""
    if not hasattr(socket, "TCP_INFO") or not os.path.isdir(_DESCRIPTORS):  # noqa: PTH112 - as below
        return
    for name in os.listdir(_DESCRIPTORS):  # noqa: PTH208 - paths would take three times as long
        with suppress(OSError):
            kind, _, inode = os.readlink(f"{_DESCRIPTORS}/{name}").partition(":")  # noqa: PTH115 - as above
            if kind != "socket":
                continue
            found = known.get(int(inode[1:-1]))
            if found is None or found.number != int(name):
                found = _looked_at(int(name))
            if found is not None:
                yield found


def _looked_at(number: int) -> _Socket | None:
    """Return the socket that a descriptor stands for, None if it is of another kind; raises OSError."""
    descriptor = os.dup(number)
    try:
        one = socket.socket(fileno=descriptor)
    except OSError:
        os.close(descriptor)
        raise
    with one:
        peer = address(one.getpeername())
        if peer is None:
            return None
        congestion = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _NAME_BYTES)
        return _Socket(number, os.fstat(descriptor).st_ino, peer, congestion.rstrip(b"\0").decode("ascii"))


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


def _is_open(info: bytes) -> bool:
    return len(info) > _NOT_SENT and info[0] == _ESTABLISHED


def _silent_s(info: bytes) -> float:
    on_the_way = _u32(info, _UNACKED) or _u32(info, _NOT_SENT)
    return _u32(info, _LAST_ACK_RECV if on_the_way else _LAST_DATA_RECV) / 1000


def _u32(info: bytes, offset: int) -> int:
    (value,) = struct.unpack_from("=I", info, offset)
    return int(value)
