"""What the kernel knows of this process's own TCP connections (tcp(7), TCP_INFO), without privileges. Linux only."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterator

Address = tuple[str, int]
"""An IP address in its shortest form, and a port."""

_DESCRIPTORS = Path("/proc/self/fd")
_INFO_BYTES = 256
# Offsets in struct tcp_info (linux/tcp.h), which only ever grows: all u32, milliseconds and bytes.
_UNACKED, _LAST_DATA_RECV, _LAST_ACK_RECV, _NOT_SENT = 24, 52, 56, 144


@dataclass(frozen=True)
class Connection:
    """One TCP connection: who is at the other end, and for how long nothing has come from there.

    While bytes are on their way there, not even an acknowledgement; else no data.
    """

    peer: Address
    silent_s: float


def connections() -> list[Connection]:
    """Return this process's connections; none where the kernel does not tell. Costs some 10 microseconds for each."""
    if not hasattr(socket, "TCP_INFO") or not _DESCRIPTORS.is_dir():
        return []
    found = []
    for entry in list(_DESCRIPTORS.iterdir()):
        with suppress(OSError), _duplicate(entry) as one:
            peer = address(one.getpeername())
            info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
            if peer is not None and len(info) >= _NOT_SENT + 4:
                found.append(Connection(peer, _silent_s(info)))
    return found


@contextmanager
def _duplicate(entry: Path) -> Iterator[socket.socket]:
    """Give a socket for the length of a with-block; closing a duplicate leaves gRPC's own alone. Raises OSError."""
    if not str(entry.readlink()).startswith("socket:"):
        raise OSError(errno.ENOTSOCK, os.strerror(errno.ENOTSOCK))
    descriptor = os.dup(int(entry.name))
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


def _silent_s(info: bytes) -> float:
    on_the_way = _u32(info, _UNACKED) or _u32(info, _NOT_SENT)
    return _u32(info, _LAST_ACK_RECV if on_the_way else _LAST_DATA_RECV) / 1000


def _u32(info: bytes, offset: int) -> int:
    (value,) = struct.unpack_from("I", info, offset)
    return int(value)
