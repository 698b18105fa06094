"""What the relay that plays a link costs, and how exact it is, beside the same without it, on loopback.

    python bench/link_relay.py [--quick]

A process serves, one relays, this one measures; direct and relayed take turns. Delays are one-way and upward. An error
is what a median round trip grows by, over that of a direct connection used as seldom, less the delay asked for.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from fanout_figures import markdown, met, spread

from flclient.link.protocol import Applied, Ready, Request, Set, Setup, answers, line
from flcommon.link import NATURAL, Way

if TYPE_CHECKING:
    from collections.abc import Iterator

DELAYS_MS = (0.5, 1.0, 3.3, 10.0, 50.0)
RATES_MBIT = (1, 10, 100)
RATE_S = 2.0
ADDED_MS, ERROR_MS, RATE_SHARE, LEAST_GBIT = 0.3, 0.3, 0.05, 2.0
PING = bytes(50)
BLOCK = bytes(1 << 20)
SERVER = """
import socket, threading
def serve(one):
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buffer, total = bytearray(1 << 20), 0
    pings = one.recv(1) == b"p"
    while size := one.recv_into(buffer):
        total += size
        if pings:
            one.sendall(buffer[:size])
    if not pings:
        one.sendall(b"x")
    one.close()
with socket.create_server(("127.0.0.1", 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    while True:
        threading.Thread(target=serve, args=listener.accept()[:1], daemon=True).start()
"""


class BenchmarkFailed(Exception):
    """The relay does not do what it is asked."""


@dataclass(frozen=True)
class Stage:
    """A server's port, and that of the relay in front of it."""

    direct: int
    relayed: int
    relay: subprocess.Popen[bytes]

    def ask(self, request: Request) -> None:
        """Have the link set; raises BenchmarkFailed."""
        answer = _ask(self.relay, request)
        if not isinstance(answer, Applied):
            raise BenchmarkFailed(answer)

    def cpu_s(self) -> float:
        """Return the CPU seconds of the relay so far."""
        times = psutil.Process(self.relay.pid).cpu_times()
        return float(times.user + times.system)


@contextmanager
def stage() -> Iterator[Stage]:
    """Run a server and a relay in processes of their own."""
    with ExitStack() as stack:
        server = stack.enter_context(subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE))
        stack.callback(server.kill)
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        argv = [sys.executable, "-m", "flclient.link.relay"]
        relay = stack.enter_context(
            subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        )
        port = int(_first_line(server))
        ready = _ask(relay, Setup(server=f"127.0.0.1:{port}"))
        if not isinstance(ready, Ready):
            raise BenchmarkFailed(ready)
        yield Stage(port, int(ready.address.rpartition(":")[2]), relay)


def _first_line(process: subprocess.Popen[bytes]) -> bytes:
    if process.stdout is None:
        raise BenchmarkFailed("no output")
    return process.stdout.readline()


def _ask(relay: subprocess.Popen[bytes], request: Request) -> object:
    if relay.stdin is None:
        raise BenchmarkFailed("no input")
    relay.stdin.write(line(request))
    relay.stdin.flush()
    return answers.decode(_first_line(relay))


@contextmanager
def connected(port: int, kind: bytes) -> Iterator[socket.socket]:
    """Connect to be answered (`p`), or to be taken from (`s`)."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(kind)
        yield connection


def round_trip_ms(port: int, times: int, pause_s: float = 0.0) -> float:
    """Return the median of so many round trips, with a pause before each."""
    found = []
    with connected(port, b"p") as connection:
        for _ in range(times + 1):
            time.sleep(pause_s)
            begun = time.perf_counter()
            connection.sendall(PING)
            connection.recv(len(PING), socket.MSG_WAITALL)
            found.append((time.perf_counter() - begun) * 1e3)
    return statistics.median(found[1:])


def push_s(port: int, size: int) -> float:
    """Return how long it takes until so many bytes, and the end of them, have been taken."""
    with connected(port, b"s") as connection:
        begun = time.perf_counter()
        for start in range(0, size, len(BLOCK)):
            connection.sendall(BLOCK[: min(len(BLOCK), size - start)])
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)
        return time.perf_counter() - begun


def latency(here: Stage, turns: int) -> str:
    """Compare round trips with nothing asked for."""
    here.ask(Set(number=0, up=NATURAL, down=NATURAL))
    pairs = [(round_trip_ms(here.direct, 300), round_trip_ms(here.relayed, 300)) for _ in range(turns)]
    direct, relayed = (statistics.median(side) for side in zip(*pairs, strict=True))
    added = [through - without for without, through in pairs]
    row = ["nothing asked", f"{direct:.3f}", f"{relayed:.3f}", spread(added), met(statistics.median(added), ADDED_MS)]
    return markdown([["round trip, medians", "direct ms", "relayed ms", "added ms", f"≤ {ADDED_MS:g} ms"], row])


def delays(here: Stage, turns: int) -> str:
    """Compare round trips through a link with a delay."""
    rows = [["delay, one way", "direct ms", "relayed ms", "error ms", f"≤ {ERROR_MS:g} ms"]]
    for delay_ms in DELAYS_MS:
        here.ask(Set(number=1, up=Way(delay_ms=delay_ms), down=NATURAL))
        times = max(15, min(100, round(500 / delay_ms)))
        pairs = [
            (round_trip_ms(here.direct, times, delay_ms / 1e3), round_trip_ms(here.relayed, times))
            for _ in range(turns)
        ]
        direct, relayed = (statistics.median(side) for side in zip(*pairs, strict=True))
        errors = [through - without - delay_ms for without, through in pairs]
        verdict = met(abs(statistics.median(errors)), ERROR_MS)
        rows.append([f"{delay_ms:g} ms", f"{direct:.3f}", f"{relayed:.3f}", spread(errors), verdict])
    return markdown(rows)


def rates(here: Stage, turns: int) -> str:
    """Send for some seconds through a link with a rate, and compare the goodput with what frames leave of it."""
    rows = [["rate", "payload Mbit/s", "of the rate's payload", "CPU seconds a second", f"within {RATE_SHARE:.0%}"]]
    for rate_mbit in RATES_MBIT:
        here.ask(Set(number=2, up=Way(rate_mbit=rate_mbit), down=NATURAL))
        size = round(rate_mbit * 1e6 / 8 * RATE_S)
        before = here.cpu_s()
        took_s = [push_s(here.relayed, size) for _ in range(turns)]
        cpu = (here.cpu_s() - before) / sum(took_s)
        goodput = [size * 8 / one / 1e6 for one in took_s]
        shares = [one / rate_mbit * 1514 / 1448 for one in goodput]
        verdict = met(abs(statistics.median(shares) - 1), RATE_SHARE)
        rows.append([f"{rate_mbit} Mbit/s", f"{statistics.median(goodput):.3f}", spread(shares), f"{cpu:.2f}", verdict])
    return markdown(rows)


def throughput(here: Stage, turns: int) -> str:
    """Send a GB as fast as it goes: directly, through a relay that plays nothing, and through one with a delay."""
    size = 10**9
    rows = [["1 GB as fast as it goes", "Gbit/s", "to direct", "relay's CPU seconds a GB", f"≥ {LEAST_GBIT:g} Gbit/s"]]
    ways = {"nothing asked": NATURAL, "1 ms": Way(delay_ms=1), "10 ms": Way(delay_ms=10)}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ("direct", *ways)}
    for _ in range(turns):
        found["direct"].append((size * 8 / push_s(here.direct, size) / 1e9, 0.0))
        for name, way in ways.items():
            here.ask(Set(number=3, up=way, down=NATURAL))
            before = here.cpu_s()
            gbit = size * 8 / push_s(here.relayed, size) / 1e9
            found[name].append((gbit, here.cpu_s() - before))
    for name, all_of_it in found.items():
        gbit, cpu_s = (statistics.median(side) for side in zip(*all_of_it, strict=True))
        ratios = [one / other for (one, _), (other, _) in zip(all_of_it, found["direct"], strict=True)]
        verdict = met(LEAST_GBIT, gbit) if name == "nothing asked" else ""
        rows.append([name, f"{gbit:.2f}", spread(ratios), f"{cpu_s:.2f}" if name in ways else "", verdict])
    return markdown(rows)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two turns instead of five")
    turns = 2 if parser.parse_args().quick else 5
    with stage() as here:
        for table in (latency, delays, rates, throughput):
            print(table(here, turns), flush=True)


if __name__ == "__main__":
    main()
