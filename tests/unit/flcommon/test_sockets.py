"""What the kernel says of a connection: how it is doing, and for how long nothing has come from its other end."""

from __future__ import annotations

import select
import socket
import struct
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flcommon.events import Tcp
from flcommon.sockets import Address, Sockets, address, connections, dialled, peer_address, tcp_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


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
        before = descriptors()
        for _ in range(10):
            assert connections()
        assert descriptors() == before
    assert silent_s(pair[2]) >= 0


@pytest.mark.parametrize("peer", ["unix:/run/x", "", "ipv4:nonsense:5", "ipv4:127.0.0.1:"])
def test_what_is_no_address_is_none(peer: str) -> None:
    """No guess."""
    assert peer_address(peer) is None


def test_one_address_has_one_form() -> None:
    """As gRPC writes it, and as the kernel may."""
    assert peer_address("ipv6:%5B::ffff:192.0.2.1%5D:80") == peer_address("ipv4:192.0.2.1:80") == ("192.0.2.1", 80)
    assert peer_address("ipv6:%5Bfe80::1%25eth0%5D:80") == ("fe80::1", 80)


# --- all that the kernel tells ----------------------------------------------------------------------------------------

HEADER = (
    *((name, "B") for name in ["state", "ca_state", "retransmits", "probes", "backoff", "options", "wscale", "flags"]),
    *((name, "I") for name in ["rto", "ato", "snd_mss", "rcv_mss", "unacked", "sacked", "lost", "retrans", "fackets"]),
    *((name, "I") for name in ["last_data_sent", "last_ack_sent", "last_data_recv", "last_ack_recv"]),
    *((name, "I") for name in ["pmtu", "rcv_ssthresh", "rtt", "rttvar", "snd_ssthresh", "snd_cwnd"]),
    *((name, "I") for name in ["advmss", "reordering"]),
    *((name, "I") for name in ["rcv_rtt", "rcv_space", "total_retrans"]),
    *((name, "Q") for name in ["pacing_rate", "max_pacing_rate", "bytes_acked", "bytes_received"]),
    *((name, "I") for name in ["segs_out", "segs_in", "notsent_bytes", "min_rtt", "data_segs_in", "data_segs_out"]),
    *((name, "Q") for name in ["delivery_rate", "busy_time", "rwnd_limited", "sndbuf_limited"]),
    *((name, "I") for name in ["delivered", "delivered_ce"]),
    *((name, "Q") for name in ["bytes_sent", "bytes_retrans"]),
    *((name, "I") for name in ["dsack_dups", "reord_seen", "rcv_ooopack", "snd_wnd"]),
)
"""struct tcp_info as linux/tcp.h has it; the bit fields make two bytes."""
LAYOUT = struct.Struct("@" + "".join(kind for _, kind in HEADER))


def packed(**fields: int) -> bytes:
    return LAYOUT.pack(*(fields.get(name, 0) for name, _ in HEADER))


def test_every_field_is_taken_from_its_place() -> None:
    """By the kernel's header, in our units: microseconds, bytes a second and segments are what the kernel counts in."""
    names = [name for name, _ in HEADER[8:]]
    told = tcp_of(packed(**{name: 1000 + place for place, name in enumerate(names)}), "cubic")
    value = {name: 1000 + place for place, name in enumerate(names)}
    assert told == Tcp(
        rtt_ms=value["rtt"] / 1e3,
        rtt_var_ms=value["rttvar"] / 1e3,
        rtt_min_ms=value["min_rtt"] / 1e3,
        retransmitted=value["total_retrans"],
        lost=value["lost"],
        delivery_rate_mbit=pytest.approx(value["delivery_rate"] * 8e-6),
        sent_bytes=value["bytes_sent"],
        acked_bytes=value["bytes_acked"],
        received_bytes=value["bytes_received"],
        busy_s=value["busy_time"] / 1e6,
        window_limited_s=value["rwnd_limited"] / 1e6,
        buffer_limited_s=value["sndbuf_limited"] / 1e6,
        congestion_window=value["snd_cwnd"],
        segment_bytes=value["snd_mss"],
        congestion="cubic",
    )


def test_what_was_not_measured_yet_is_none() -> None:
    """A connection that has carried nothing has no round trip, and no rate."""
    told = tcp_of(packed(rttvar=250_000, min_rtt=0xFFFFFFFF))
    assert (told.rtt_ms, told.rtt_var_ms, told.rtt_min_ms, told.delivery_rate_mbit) == (None, None, None, None)
    assert told.retransmitted == 0


@given(st.binary(max_size=400), st.integers(0, 400))
def test_a_kernel_may_tell_less_or_more(info: bytes, length: int) -> None:
    """Any number of bytes: what is there is as it would be with the rest, and what is not there is None."""
    whole, part = tcp_of(info), tcp_of(info[:length])
    for field in msgspec.structs.fields(Tcp):
        assert getattr(part, field.name) in {None, getattr(whole, field.name)}
    assert tcp_of(info.ljust(LAYOUT.size, b"\0")) == tcp_of(info.ljust(LAYOUT.size, b"\0") + b"more")
    assert tcp_of(b"") == Tcp()
    assert msgspec.json.encode(whole)


def test_bytes_are_counted_on_both_sides(pair: tuple[socket.socket, socket.socket, str]) -> None:
    """To the byte, and with the name of the congestion control."""
    near, far, peer = pair
    sockets = Sockets()
    there, here = peer_address(peer), address(near.getsockname())
    before = sockets.tcp(here)
    far.sendall(bytes(123_456))
    left = 123_456
    while left:
        left -= len(near.recv(left))
    taken = sockets.tcp(there)
    until_acked(lambda: sockets.tcp(here).acked_bytes - before.acked_bytes == 123_456)
    assert (taken.received_bytes, sockets.tcp(here).sent_bytes - before.sent_bytes) == (123_456, 123_456)
    assert taken.congestion == Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()


def until_acked(holds: Callable[[], bool]) -> None:
    """The kernel acknowledges when it likes to, within its delayed-ACK time."""
    deadline = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


# --- connections that come and go -------------------------------------------------------------------------------------


@contextmanager
def connected(listening: socket.socket) -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_connection(listening.getsockname()) as far:
        near, _ = listening.accept()
        with near:
            yield near, far


def test_a_connection_that_is_watched_can_end() -> None:
    """Its other side hears of it at once, and a descriptor that gets its number is not taken for it."""
    sockets = Sockets()
    with socket.create_server(("127.0.0.1", 0)) as listening, connected(listening) as (near, far):
        peer = address(far.getsockname())
        assert sockets.tcp(peer) is not None
        number = near.fileno()
        near.close()
        far.settimeout(5)
        assert far.recv(1) == b""
        with connected(listening) as (_, another):
            used = {one.fileno() for one in (another, _)}
            assert number in used, "the kernel gives the lowest number that is free"
            assert sockets.tcp(peer) is None
            assert sockets.tcp(address(another.getsockname())) is not None


def test_of_two_connections_to_one_place_the_live_one_is_meant() -> None:
    """A broken connection may be open for a while beside the one that came after it; a name may be any address."""
    with socket.create_server(("127.0.0.1", 0)) as listening, connected(listening) as (old, _):
        port = listening.getsockname()[1]
        old.sendall(b"old")
        for peer in (("127.0.0.1", port), ("", port)):
            sockets = Sockets()
            assert sockets.tcp(peer) is not None
            select.select([], [], [], 0.05)  # a wait: the kernel's own resolution is some milliseconds
            with connected(listening) as (new, far):
                new.sendall(b"newer")
                far.recv(5)
                assert Sockets().tcp(peer).received_bytes == 5
                assert sockets.tcp(peer).received_bytes == 3, "who has one that is open stays with it"


def test_many_connections_leave_nothing_open() -> None:
    """Neither while they are watched, nor afterwards."""
    sockets = Sockets()
    before = descriptors()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        for _ in range(200):
            with connected(listening) as (_near, far):
                assert sockets.tcp(address(far.getsockname())) is not None
                assert sockets.tcp(("", listening.getsockname()[1])) is not None
                assert descriptors() == before + 3
    assert descriptors() == before


class Counted(Sockets):
    """Counts how often it looks at all descriptors."""

    looks = 0

    def _look(self, peer: Address) -> Any:
        self.looks += 1
        return super()._look(peer)


def test_all_descriptors_are_looked_at_once_for_all_and_not_again_for_nobody() -> None:
    """One look finds everybody who is there; who is not there is not looked for all the time."""
    sockets = Counted()
    with socket.create_server(("127.0.0.1", 0)) as listening, ExitStack() as stack:
        pairs = [stack.enter_context(connected(listening)) for _ in range(10)]
        for _, far in pairs * 3:
            assert sockets.tcp(address(far.getsockname())) is not None
        assert sockets.looks == 1
        for _ in range(100):
            assert sockets.tcp(("192.0.2.1", 9)) is None
        assert sockets.looks <= 3


@pytest.mark.parametrize(
    ("target", "asked"),
    [
        ("192.0.2.1:80", ("192.0.2.1", 80)),
        ("[2001:db8::1]:80", ("2001:db8::1", 80)),
        ("pi4-a.local:8080", ("", 8080)),
    ],
)
def test_who_is_dialled(target: str, asked: Address) -> None:
    """An address is that, and a name may be any."""
    assert dialled(target) == asked
