"""The cable by which links are tested: what it does is what it says, measured by others than itself."""

from __future__ import annotations

import itertools
import math
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from statistics import median

import psutil
import pytest

from tests.cable import Both, cabled, carried, why_not
from tests.cableplan import End, Way

WHY_NOT = why_not(ping="iputils-ping")
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=str(WHY_NOT))

ROUNDS = 3
"""A median can be off in a bad moment of a busy machine: the lowest of several is compared."""
EXACT_MS = 0.4
WAYS = [(0, 0), (1, 1), (5, 5), (20, 20), (50, 50), (100, 100), (30, 2.5)]
PORT = 9000
HOLDER = """
import sys
from tests.cable import Both, cabled
with cabled(Both()) as cable:
    print(cable.pid, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module", autouse=True)
def _first():
    """Come before what else this machine does: this process is what the cable is measured by."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, -20)
    yield
    os.setpriority(os.PRIO_PROCESS, 0, before)


@pytest.fixture(scope="module")
def star():
    """One cable for each pair of delays, end 1 without any."""
    with cabled(*(Both(Way(delay_ms=up), Way(delay_ms=down)) for up, down in WAYS)) as star:
        yield star


@pytest.fixture
def cable():
    with cabled(Both()) as cable:
        yield cable


def pinged(star):
    """Ping the hub from all ends at once; returns each end's median and what its cable did, in ms."""
    ends = range(1, len(WAYS) + 1)
    for end in ends:
        star.truth(end)
    argv = ["ping", "-n", "-c", "25", "-i", "0.011", star.address(0)]
    pings = {end: subprocess.Popen([*star.inside(end), *argv], stdout=subprocess.PIPE, text=True) for end in ends}
    said = {end: ping.communicate()[0] for end, ping in pings.items()}
    # The first one wakes everybody up.
    times = {end: [float(ms) for ms in re.findall(r"time=([\d.]+)", text)][1:] for end, text in said.items()}
    return {end: (median(times[end]), star.truth(end).rtt_ms) for end in ends}


@pytest.fixture(scope="module")
def pings(star):
    return [pinged(star) for _ in range(ROUNDS)]


@pytest.mark.parametrize("end", range(2, len(WAYS) + 1), ids=lambda end: "-".join(map(str, WAYS[end - 1])))
def test_a_round_trip_takes_what_both_ways_take(pings, end):
    """Longer than on a cable without delay by the sum of both delays; and that is also what the cable tells."""
    without_ms = min(round_[1][0] for round_ in pings)
    took_ms = min(round_[end][0] for round_ in pings)
    assert took_ms - without_ms == pytest.approx(sum(WAYS[end - 1]), abs=EXACT_MS)
    off_ms = [round_[end][0] - round_[end][1] for round_ in pings]
    assert -0.1 <= min(off_ms) <= EXACT_MS  # ping rounds to 0.1 ms


def received(sock, count, seconds=2.0):
    """Return as many datagrams as come, each with its moment on the clock that all namespaces share."""
    got = []
    while len(got) < count and select.select([sock], [], [], seconds)[0]:
        got.append((sock.recv(2000), time.monotonic_ns()))
    return got


def datagrams(cable, end=1):
    """Return a socket at the hub, and one at an end, connected with one another."""
    hub, far = cable.socket(0, socket.SOCK_DGRAM), cable.socket(end, socket.SOCK_DGRAM)
    hub.bind((cable.address(0), 0))
    far.bind((cable.address(end), 0))
    hub.connect(far.getsockname())
    far.connect(hub.getsockname())
    return hub, far


def one_way_ms(source, target, count=15):
    """Return the least: a packet is never early, and late also for want of a processor."""
    lasted = []
    for _ in range(count):
        source.send(struct.pack("q", time.monotonic_ns()))
        ((data, at_ns),) = received(target, 1)
        lasted.append((at_ns - struct.unpack("q", data)[0]) / 1e6)
    return min(lasted)


def test_each_direction_has_its_own_delay(star):
    """One-way, on the one clock of this machine, compared with the cable that has none."""
    end = len(WAYS)
    up_ms, down_ms = WAYS[end - 1]
    hub, far = datagrams(star, end)
    near_hub, near = datagrams(star, 1)
    with hub, far, near_hub, near:
        assert one_way_ms(far, hub) - one_way_ms(near, near_hub) == pytest.approx(up_ms, abs=EXACT_MS)
        assert one_way_ms(hub, far) - one_way_ms(near_hub, near) == pytest.approx(down_ms, abs=EXACT_MS)


def connected(cable, end=1):
    """Return both ends of a TCP connection, the hub's first, and how long it took to make it, in ms."""
    listener, far = cable.socket(0), cable.socket(end)
    with listener:
        listener.bind((cable.address(0), 0))
        listener.listen()
        began = time.monotonic()
        far.connect(listener.getsockname())
        took_ms = (time.monotonic() - began) * 1000
        hub, _ = listener.accept()
    for sock in (hub, far):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return hub, far, took_ms


@pytest.mark.parametrize("end", [3, 4], ids=lambda end: f"{WAYS[end - 1][0]}")
def test_tcp_takes_the_same_round_trip(star, end):
    """To connect, and to ask and be answered."""
    rtt_ms = sum(WAYS[end - 1])
    connects, answers = [], []
    for _ in range(ROUNDS):
        hub, far, took_ms = connected(star, end)
        with hub, far:
            connects.append(took_ms)
            for _ in range(10):
                began = time.monotonic()
                far.send(b"?")
                hub.send(hub.recv(1))
                far.recv(1)
                answers.append((time.monotonic() - began) * 1000)
    assert min(connects) == pytest.approx(rtt_ms, abs=1.0)
    assert min(answers) == pytest.approx(rtt_ms, abs=1.0)


def goodput_mbit(source, target, size=400_000):
    """Send so many bytes; returns their rate between the first and the last to arrive."""
    sending = threading.Thread(target=source.sendall, args=(bytes(size),))
    sending.start()
    got = len(target.recv(1 << 16))
    first, began = got, time.monotonic()
    while got < size:
        got += len(target.recv(1 << 16))
    ended = time.monotonic()
    sending.join()
    return (got - first) * 8 / (ended - began) / 1e6


def test_a_rate_counts_ethernet_frames_as_a_real_link_does(cable):
    """Of 10 Mbit/s, TCP gets 9.56: 1448 bytes of each frame's 1514; each direction has its own."""
    cable.become(1, Both(Way(delay_ms=2, rate_mbit=10), Way(delay_ms=2, rate_mbit=20)))
    hub, far, _ = connected(cable)
    with hub, far:
        for source, target, mbit in ((far, hub, 10), (hub, far, 20)):
            off = [goodput_mbit(source, target) / (mbit * 1448 / 1514) - 1 for _ in range(ROUNDS)]
            assert min(map(abs, off)) < 0.03


def test_without_a_rate_it_is_no_bottleneck(cable):
    """At least 100 Mbit/s, on the slowest machine that runs this."""
    hub, far, _ = connected(cable)
    with hub, far:
        assert max(goodput_mbit(far, hub, 20_000_000) for _ in range(ROUNDS)) > 100


def sent(source, target, count):
    """Send numbered datagrams; returns the numbers that arrive, in their order."""
    for number in range(1, count + 1):
        source.send(struct.pack("q", number))
    return [struct.unpack("q", data)[0] for data, _ in received(target, count, 0.3)]


def test_packets_that_are_to_vanish_do(cable):
    """By their number; in one direction only; and what a cable did it counts."""
    hub, far = datagrams(cable)
    with hub, far:
        cable.become(1, Both(Way(drop=(2, 5)), Way()))
        cable.truth(1)
        assert sent(far, hub, 6) == [1, 3, 4, 6]
        assert sent(hub, far, 6) == [1, 2, 3, 4, 5, 6]
        truth = cable.truth(1)
    assert (truth.up.packets, truth.up.dropped, truth.down.packets, truth.down.dropped) == (4, 2, 6, 0)
    assert truth.down.size_bytes == 6 * (20 + 8 + 8)


def test_loss_is_random_and_of_its_probability(cable):
    """Within four standard deviations of the binomial distribution, and not every third packet."""
    hub, far = datagrams(cable)
    with hub, far:
        cable.become(1, Both(Way(loss_pct=30), Way()))
        arrived = sent(far, hub, 400)
    assert abs(len(arrived) - 280) < 4 * math.sqrt(400 * 0.3 * 0.7)
    assert len({after - before for before, after in itertools.pairwise(arrived)}) > 2


def test_a_link_can_fail_with_and_without_a_word(cable):
    """Down: an error at once. A black hole: nothing at all. After either it is as before, delay and all."""
    cable.become(1, Both.of(10))
    hub, far = datagrams(cable)
    with hub, far:
        with cable.black_hole():
            assert sent(far, hub, 3) == sent(hub, far, 3) == []
        assert one_way_ms(far, hub) == pytest.approx(10, abs=1)
        with cable.down(), pytest.raises(OSError, match="unreachable"):
            far.send(b"!")
        assert one_way_ms(hub, far) == pytest.approx(10, abs=1)


def test_nothing_overtakes_when_a_delay_shrinks(cable):
    """As in a queue: packets that were sent before the change arrive before those sent after it."""
    hub, far = datagrams(cable)
    with hub, far:
        cable.become(1, Both.of(60))
        far.send(b"first")
        far.send(b"second")
        cable.become(1, Both())
        far.send(b"third")
        assert [data for data, _ in received(hub, 3)] == [b"first", b"second", b"third"]


def test_a_machine_behind_an_end_is_reached():
    """From the hub and from another end, through the delays in between: here, an address of the end's own loopback."""
    ends = [
        End(address="198.18.0.1"),
        End(address="198.18.0.2", behind=("198.18.1.1",), down=Way(delay_ms=10)),
        End(address="198.18.0.3", up=Way(delay_ms=20)),
    ]
    with carried(ends) as star:
        star.on(1, "ip", "addr", "add", "198.18.1.1/32", "dev", "lo")
        for end, rtt_ms in ((0, 10), (2, 30)):
            said = star.on(end, "ping", "-n", "-c", "3", "-i", "0.01", "198.18.1.1")
            assert min(map(float, re.findall(r"time=([\d.]+)", said))) == pytest.approx(rtt_ms, abs=1)


@pytest.mark.parametrize("victim", ["holder", "carrier"])
def test_nothing_stays_whoever_is_killed(victim, wait_for):
    """Neither its process nor, with that, its namespaces: nothing else holds them."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[2],
    ) as holder:  # fmt: skip
        carrier = psutil.Process(int(holder.stdout.readline()))
        try:
            (holder if victim == "holder" else carrier).send_signal(signal.SIGKILL)
            assert wait_for(lambda: not carrier.is_running() or carrier.status() == psutil.STATUS_ZOMBIE)
        finally:
            holder.kill()
    assert wait_for(lambda: not carrier.is_running())
