"""A relay process on loopback: what it adds is compared with a connection that goes without it."""

from __future__ import annotations

import random
import signal
import socket
import statistics
import struct
import threading
import time
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from flclient.link.protocol import Applied, Broke, Clear, Mark, Set, Setup
from flcommon.link import NATURAL, Way

if TYPE_CHECKING:
    from collections.abc import Callable

LONG_S = 20.0
MEBIBYTE = 1 << 20


def wait_until(what: Callable[[], bool]) -> None:
    """Wait for what nobody tells of."""
    deadline = time.monotonic() + LONG_S
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def count(connection: socket.socket) -> None:
    """Take all there is, then say how much it was."""
    total = 0
    while data := connection.recv(MEBIBYTE):
        total += len(data)
    connection.sendall(struct.pack("!Q", total))


def push_s(connection: socket.socket, size: int) -> float:
    """Return how long it takes until that much is at the server and the end of it too."""
    begun = time.perf_counter()
    connection.sendall(bytes(size))
    connection.shutdown(socket.SHUT_WR)
    assert struct.unpack("!Q", connection.recv(8, socket.MSG_WAITALL)) == (size,)
    return time.perf_counter() - begun


def test_nothing_asked_costs_little(bench: Any) -> None:
    """Without a link to play a round trip is hardly longer than without the relay, and nothing is held."""
    server = bench.server()
    told, port = bench.relay(f"127.0.0.1:{server.port}")
    direct, through = bench.connect(server.port), bench.connect(port)
    added = min(bench.round_trip_ms(through) - bench.round_trip_ms(direct) for _ in range(3))
    assert added < 0.3
    assert told.used(up=True).held_mean_ms < 0.3


@pytest.mark.parametrize(("up_ms", "down_ms"), [(1.0, 0.0), (0.0, 3.3), (5.25, 10.5), (0.0, 20.0)])
def test_delays_are_exact_and_one_way(bench: Any, up_ms: float, down_ms: float) -> None:
    """A round trip grows by both delays, fractions of a millisecond included; what was really held is said."""
    server = bench.server()
    told, port = bench.relay(f"127.0.0.1:{server.port}")
    through = bench.connect(port)
    applied = told.set(Way(delay_ms=up_ms), Way(delay_ms=down_ms))
    assert applied.up == ({"delay_ms": up_ms} if up_ms else None)
    assert applied.down == ({"delay_ms": down_ms} if down_ms else None)
    bench.round_trip_ms(through, 1)
    for up in (True, False):
        told.used(up=up)
    found = [bench.round_trip_ms(through, 1) for _ in range(30)]
    used = {up: told.used(up=up) for up in (True, False)}
    # The fastest, for the machine may be busy: nothing is ever early.
    assert up_ms + down_ms <= min(found) <= up_ms + down_ms + 1.0
    assert used[True].held_mean_ms + used[False].held_mean_ms <= statistics.fmean(found)
    for up, asked_ms in ((True, up_ms), (False, down_ms)):
        assert used[up].size_bytes == 4 * 30
        assert used[up].held_max_ms >= used[up].held_mean_ms >= asked_ms


@pytest.mark.parametrize("rate_mbit", [2, 50])
@pytest.mark.parametrize("delay_ms", [0, 20])
def test_rates_are_exact(bench: Any, rate_mbit: int, delay_ms: int) -> None:
    """Of a rate the share that payload has in an Ethernet frame goes through, whatever the delay."""
    told, port = bench.relay(f"127.0.0.1:{bench.server(count).port}")
    told.set(Way(rate_mbit=rate_mbit, delay_ms=delay_ms))
    size = rate_mbit * 50_000
    wanted_s = size * 8 / rate_mbit / 1e6 * 1514 / 1448
    # The handshake that a new connection waits for takes as long as the delay of its one direction.
    took_s = [push_s(bench.connect(port), size) - 2 * delay_ms / 1e3 for _ in range(3)]
    assert 0.98 * wanted_s <= min(took_s) <= 1.1 * wanted_s
    assert told.used(up=True).size_bytes == 3 * size


def test_all_connections_share_one_link(bench: Any) -> None:
    """Two that send at once need as long as one that sends all of it, and each gets about a half."""
    server = bench.server(count)
    told, port = bench.relay(f"127.0.0.1:{server.port}")
    told.set(Way(rate_mbit=20))
    size, took_s = 500_000, {}

    def push(name: int, connection: socket.socket) -> None:
        took_s[name] = push_s(connection, size)

    threads = [threading.Thread(target=push, args=(name, bench.connect(port))) for name in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
    alone_s = size * 8 / 20e6 * 1514 / 1448
    assert 1.95 * alone_s <= max(took_s.values()) <= 2.4 * alone_s
    assert min(took_s.values()) >= 1.6 * alone_s


def test_bytes_arrive_whole_and_in_order_whatever_changes(bench: Any) -> None:
    """Delay, jitter, loss and rate change all the time while megabytes go both ways: every byte comes, in order."""
    told, port = bench.relay(f"127.0.0.1:{bench.server().port}")
    connection = bench.connect(port)
    payload = random.Random(1).randbytes(3 * MEBIBYTE)  # noqa: S311 - the same on every run
    got = bytearray()
    ways = [
        Way(delay_ms=20, jitter_ms=20, distribution="pareto"),
        Way(rate_mbit=200),
        NATURAL,
        Way(delay_ms=5, loss_pct=3),
        Way(delay_ms=1, jitter_ms=1, rate_mbit=500),
    ]

    def read() -> None:
        while len(got) < len(payload):
            got.extend(connection.recv(1 << 16))
            way = ways[len(got) // 50_000 % len(ways)]
            if len(got) // 50_000 != (len(got) - 1) // 50_000:
                told.say(Set(number=1, up=way, down=way))

    reader = threading.Thread(target=read)
    reader.start()
    for start in range(0, len(payload), 30_000):
        told.say(Set(number=1, up=ways[start // 30_000 % 5], down=ways[start // 30_000 % 3]))
        connection.sendall(payload[start : start + 30_000])
    reader.join(60)
    assert bytes(got) == payload


def test_a_rate_changes_at_once(bench: Any) -> None:
    """What waits at a rate of a day's length goes on at the new one, without a rate at once."""
    told, port = bench.relay(f"127.0.0.1:{bench.server(count).port}")
    told.set(Way(rate_mbit=0.01))
    connection = bench.connect(port)
    connection.sendall(bytes(200_000))
    told.set()
    assert push_s_rest(connection) < 10


def push_s_rest(connection: socket.socket) -> float:
    begun = time.perf_counter()
    connection.shutdown(socket.SHUT_WR)
    connection.recv(8, socket.MSG_WAITALL)
    return time.perf_counter() - begun


def test_a_sender_feels_the_link(bench: Any) -> None:
    """Behind a slow link a sender can be rid of no more than buffers hold, also with a server that does not read."""
    is_over = threading.Event()
    told, port = bench.relay(f"127.0.0.1:{bench.server(lambda _connection: is_over.wait(LONG_S)).port}")
    for rate_mbit, most_bytes in ((1, MEBIBYTE // 2), (None, 16 * MEBIBYTE)):
        told.set(Way(rate_mbit=rate_mbit))
        connection = bench.connect(port)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
        connection.settimeout(0.5)
        assert all_that_goes(connection, 2 * most_bytes) < most_bytes
    is_over.set()


def all_that_goes(connection: socket.socket, enough: int) -> int:
    """Send until nothing more is taken for a while."""
    sent = 0
    with suppress(TimeoutError):
        while sent < enough:
            sent += connection.send(bytes(1 << 14))
    return sent


def test_the_first_bytes_wait_for_a_handshake(bench: Any) -> None:
    """A connection made and used at once takes two round trips of the link, as TCP does."""
    server = bench.server()
    told, port = bench.relay(f"127.0.0.1:{server.port}")
    told.set(Way(delay_ms=30), Way(delay_ms=20))

    def first_ms(port: int) -> float:
        begun = time.perf_counter()
        connection = bench.connect(port)
        connection.sendall(b"ping")
        assert connection.recv(4, socket.MSG_WAITALL) == b"ping"
        return (time.perf_counter() - begun) * 1e3

    first_ms(server.port)
    assert 100 <= min(first_ms(port) for _ in range(4)) <= 105


def test_a_half_closed_connection_goes_on(bench: Any) -> None:
    """The end of one direction comes after its last byte, with the delay; the other direction stays open."""
    told, port = bench.relay(f"127.0.0.1:{bench.server(count).port}")
    told.set(Way(delay_ms=40))
    connection = bench.connect(port)
    assert push_s(connection, 100_000) >= 0.04
    assert connection.recv(1) == b""


def test_a_jittered_link_is_so(bench: Any) -> None:
    """Round trips spread over the width that was asked for, around the delay."""
    told, port = bench.relay(f"127.0.0.1:{bench.server().port}")
    told.set(Way(delay_ms=10, jitter_ms=8))
    connection = bench.connect(port)
    found = sorted(bench.round_trip_ms(connection, 1) for _ in range(40))
    assert 2 <= found[0] < 7
    assert found[-1] > 13


def test_losses_are_stalls(bench: Any) -> None:
    """A lost segment comes a round trip of the link late; the stalls are counted."""
    told, port = bench.relay(f"127.0.0.1:{bench.server().port}")
    applied = told.set(Way(delay_ms=10, loss_pct=100), Way(delay_ms=20))
    assert applied.up["retransmission_ms"] == 30
    told.set(Way(delay_ms=10, loss_pct=40), Way(delay_ms=20))
    connection = bench.connect(port)
    bench.round_trip_ms(connection, 1)
    told.used(up=True)
    found = sum(bench.round_trip_ms(connection, 1) > 45 for _ in range(12))
    used = told.used(up=True)
    assert found > 0
    assert used.stalled_ms >= 30 * found
    assert used.stalled_ms % 30 == pytest.approx(0, abs=0.01)


def test_steps_ahead_hold_at_their_time(bench: Any) -> None:
    """A step said ahead comes true by itself; one said without a time makes void what has not."""
    told, port = bench.relay(f"127.0.0.1:{bench.server().port}")
    connection = bench.connect(port)
    at_ns = time.monotonic_ns() + 200_000_000
    told.say(Set(number=5, up=Way(delay_ms=15), down=NATURAL, at_ns=at_ns))
    assert bench.round_trip_ms(connection, 3) < 10
    applied = told.hear()
    assert (applied.number, applied.up) == (5, {"delay_ms": 15.0})
    assert 0 <= applied.mono_ns - at_ns < 50_000_000
    assert bench.round_trip_ms(connection, 3) >= 15
    soon_ns = time.monotonic_ns() + 100_000_000
    told.say(Set(number=6, up=Way(delay_ms=40), down=NATURAL, at_ns=soon_ns), Clear(number=7))
    told.say(Set(number=8, up=Way(delay_ms=1), down=NATURAL, at_ns=soon_ns + 50_000_000))
    assert [told.hear().number for _ in range(2)] == [7, 8]
    applied = told.ask(Clear(number=9))
    assert (applied.up, applied.down) == (None, None)


def test_a_mark_waits_for_what_is_on_its_way(bench: Any) -> None:
    """It counts the bytes that had come in; with it comes what the kernel knows of the connection to the server."""
    told, port = bench.relay(f"127.0.0.1:{bench.server().port}")
    told.set(Way(delay_ms=100))
    connection = bench.connect(port)
    bench.round_trip_ms(connection, 1)
    told.used(up=True)
    assert told.used(up=True) == told.used(up=True)  # nothing since
    told.tcp.clear()
    connection.sendall(bytes(5000))
    wait_until(lambda: told_used(told) == 5000)
    assert told.tcp
    assert len(told.tcp[-1].info) > 150
    assert told.tcp[-1].congestion
    assert told.tcp[-1].info[0] == 1  # established


def told_used(told: Any) -> int:
    """Return what has gone by; the first mark may be there before the bytes, and one that is after them waits."""
    return told.used(up=True).size_bytes


def test_answers_come_in_order(bench: Any) -> None:
    """Also when all is asked in one breath."""
    told, _ = bench.relay(f"127.0.0.1:{bench.server().port}")
    way = Way(delay_ms=1)
    told.say(*(Set(number=number, up=way, down=way) for number in range(50)), Mark(message="m", up=False))
    assert [told.hear().number for _ in range(50)] == list(range(50))
    assert (told.hear().message, told.tcp) == ("m", [])


def test_a_server_that_goes_and_comes(bench: Any, make_bench: Callable) -> None:
    """Without a server a client is reset at once, as if refused; when one is there again, it is served."""
    with make_bench() as first:
        server = first.server(lambda connection: connection.recv(1))
        told, port = bench.relay(f"127.0.0.1:{server.port}")
        connection = bench.connect(port)
        connection.sendall(b"x")
        assert ended(connection)
    for _ in range(3):
        assert refuses(bench, port)
    with socket.create_server(("127.0.0.1", server.port)) as listener:
        connection = bench.connect(port)
        accepted, _ = listener.accept()
        with accepted:
            accepted.sendall(b"here")
            assert connection.recv(4, socket.MSG_WAITALL) == b"here"
    assert told.process.poll() is None


def refuses(bench: Any, port: int) -> bool:
    """Whether a connection comes to nothing, be it while it is being made."""
    try:
        return ended(bench.connect(port))
    except ConnectionError:
        return True


def ended(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize("delay_ms", [0, 20])
def test_resets_go_through(bench: Any, delay_ms: float) -> None:
    """A reset of either side reaches the other as one, after the delay, and the relay keeps nothing of it."""
    heard: SimpleQueue[str] = SimpleQueue()

    def serve(connection: socket.socket) -> None:
        try:
            if connection.recv(1) == b"r":
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()
                return
            heard.put(f"{connection.recv(1)!r}")
        except ConnectionResetError:
            heard.put("reset")

    told, port = bench.relay(f"127.0.0.1:{bench.server(serve).port}")
    told.set(Way(delay_ms=delay_ms), Way(delay_ms=delay_ms))
    before = descriptors(told)
    by_client, by_server = bench.connect(port), bench.connect(port)
    by_client.sendall(b"x")
    wait_until(lambda: told.used(up=True).size_bytes == 1)
    by_client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    by_client.close()
    assert heard.get(timeout=LONG_S) == "reset"
    by_server.sendall(b"r")
    with pytest.raises(ConnectionResetError):
        by_server.recv(1)
    wait_until(lambda: descriptors(told) == before)


def descriptors(told: Any) -> int:
    return psutil.Process(told.process.pid).num_fds()


def test_a_client_that_leaves_ends_a_server_that_talks(bench: Any) -> None:
    """A server that goes on sending to a client that has closed is reset, as it would be without a relay."""
    heard: SimpleQueue[bool] = SimpleQueue()

    def talk(connection: socket.socket) -> None:
        try:
            while True:
                connection.sendall(bytes(1000))
        except ConnectionError:
            heard.put(item=True)

    told, port = bench.relay(f"127.0.0.1:{bench.server(talk).port}")
    before = descriptors(told)
    connection = bench.connect(port)
    connection.shutdown(socket.SHUT_WR)
    wait_until(lambda: told.used(up=False).size_bytes > 0)
    connection.close()
    assert heard.get(timeout=LONG_S)
    wait_until(lambda: descriptors(told) == before)


def test_many_connections_leave_nothing(bench: Any) -> None:
    """One after the other, each is served and forgotten."""
    told, port = bench.relay(f"127.0.0.1:{bench.server().port}")
    before = descriptors(told)
    for _ in range(150):
        with bench.connect(port) as connection:
            connection.sendall(b"ping")
            assert connection.recv(4, socket.MSG_WAITALL) == b"ping"
    wait_until(lambda: descriptors(told) == before)


@pytest.mark.parametrize("host", ["[::1]", "localhost"])
def test_servers_by_other_names(bench: Any, host: str) -> None:
    """IPv6 and host names are found; of a name's addresses the one that answers is used."""
    server = bench.server(host="::1" if host == "[::1]" else "127.0.0.1")
    _, port = bench.relay(f"{host}:{server.port}")
    assert bench.round_trip_ms(bench.connect(port), 1) > 0


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (Setup(server="nowhere"), "host:port, not 'nowhere'"),
        (Setup(server="127.0.0.1:x"), "host:port"),
        (Setup(server="no-such-name.invalid:80"), "cannot be resolved"),
        (Clear(number=1), "the first line must be a setup"),
        (b"{}\n", "cannot be understood"),
        (b"not json\n", "cannot be understood"),
    ],
)
def test_a_bad_setup_is_told(bench: Any, first: Any, reason: str) -> None:
    """In one sentence, and with exit status 1; no traceback."""
    told = bench.told()
    answer = told.ask(first)
    assert isinstance(answer, Broke)
    assert reason in answer.reason
    assert told.end() == (1, b"")


def test_what_it_cannot_do_is_told(bench: Any) -> None:
    """Reordering and duplicates, nonsense and a second setup are refused; what held before goes on."""
    told, _ = bench.relay(f"127.0.0.1:{bench.server().port}")
    told.set(Way(delay_ms=2))
    refused = told.ask(Set(number=2, up=Way(delay_ms=1, reorder_pct=1), down=Way(duplicate_pct=1)))
    assert isinstance(refused, Broke)
    assert "reorder_pct and duplicate_pct" in refused.reason
    assert (
        "jitter_ms (3) must not be above"
        in told.ask(b'{"ask":"set","number":3,"up":{"jitter_ms":3},"down":{}}\n').reason
    )
    assert isinstance(told.ask(Setup(server="127.0.0.1:1")), Broke)
    assert isinstance(told.set(Way(delay_ms=2)), Applied)


@pytest.mark.parametrize("how", ["end of input", signal.SIGTERM, signal.SIGHUP, "nobody listens"])
def test_it_ends_with_its_client(bench: Any, how: Any) -> None:
    """By the end of its input or a signal: connections are closed, bytes still held are lost, status 0."""
    told, port = bench.relay(f"127.0.0.1:{bench.server().port}")
    told.set(Way(delay_ms=10_000))
    connection = bench.connect(port)
    connection.sendall(b"x")
    if isinstance(how, signal.Signals):
        told.process.send_signal(how)
    elif how == "nobody listens":
        told.process.stdout.close()
        told.say(Clear(number=1))
        assert told.process.wait(LONG_S) == 0
        return
    assert told.end() == (0, b"")
    assert ended(connection)
