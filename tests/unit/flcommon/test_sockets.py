"""What the kernel says of a connection: for how long nothing has come from its other end."""

from __future__ import annotations

import select
import socket
import sys
import tempfile
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flcommon.sockets import connections, peer_address

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="TCP_INFO by /proc/self/fd needs Linux")


@pytest.fixture(params=[(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")], ids=["ipv4", "ipv6"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket, str]]:
    """Return both ends of a connection, and how gRPC would name the second."""
    family, host = request.param
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server((host, 0), family=family))
        far = stack.enter_context(socket.create_connection(listening.getsockname()[:2]))
        near, (address, port, *_) = listening.accept()
        stack.enter_context(near)
        yield near, far, f"ipv4:{address}:{port}" if family == socket.AF_INET else f"ipv6:%5B{address}%5D:{port}"


def silent_s(peer: str) -> float:
    (found,) = [one.silent_s for one in connections() if one.peer == peer_address(peer)]
    return found


def test_silence_grows_and_ends_with_a_byte(pair: tuple[socket.socket, socket.socket, str]) -> None:
    """In seconds since the last byte from there; the descriptor that was looked at stays open."""
    near, far, peer = pair
    far.sendall(b"x")
    select.select([near], [], [], 5)
    first = silent_s(peer)
    select.select([far], [], [], 0.3)  # nothing comes: a wait
    assert 0.2 < silent_s(peer) - first < 2
    far.sendall(b"y")
    select.select([near], [], [], 5)
    assert near.recv(2) == b"xy"
    assert silent_s(peer) < 0.2


def test_an_acknowledgement_is_a_sign_of_life_while_bytes_are_on_their_way(
    pair: tuple[socket.socket, socket.socket, str],
) -> None:
    """A kernel whose process takes nothing in says so when it is asked, and it is asked often."""
    near, _, peer = pair
    near.settimeout(0.0)
    with suppress(BlockingIOError):
        while near.send(bytes(1 << 16)):
            pass
    quiet = []
    for _ in range(5):
        select.select([], [], [], 0.1)  # a wait
        quiet.append(silent_s(peer))
    assert min(quiet) < 0.3


def test_looking_leaves_nothing_open(pair: tuple[socket.socket, socket.socket, str]) -> None:
    """Also of descriptors that are no sockets, or sockets of another kind."""
    a, b = socket.socketpair()
    with a, b, tempfile.TemporaryFile():
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(10):
            assert connections()
        assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert silent_s(pair[2]) >= 0


@pytest.mark.parametrize("peer", ["unix:/run/x", "", "ipv4:nonsense:5", "ipv4:127.0.0.1:"])
def test_what_is_no_address_is_none(peer: str) -> None:
    """No guess."""
    assert peer_address(peer) is None


def test_one_address_has_one_form() -> None:
    """As gRPC writes it, and as the kernel may."""
    assert peer_address("ipv6:%5B::ffff:192.0.2.1%5D:80") == peer_address("ipv4:192.0.2.1:80") == ("192.0.2.1", 80)
    assert peer_address("ipv6:%5Bfe80::1%25eth0%5D:80") == ("fe80::1", 80)
