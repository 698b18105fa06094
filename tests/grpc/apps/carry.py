"""Sends bytes over a slow loopback of its own and prints what the kernel says of it, beside what is known.

To be run in a network namespace of its own (unshare --net), as root. Everything goes with that.
"""

import json
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import msgspec

from flcommon.sockets import Sockets

RATE_MBIT, QUEUE_MS = 20, 1.0
LOSSY, PLAIN, SLOW_READER, SMALL_BUFFER, IDLE, BUSY, FILL = range(9000, 9007)
"""A port for each case; packets of data to the first are dropped at random."""
SO_MAX_PACING_RATE = 47
RULES = f"""
table inet carry {{
 chain arriving {{
  type filter hook input priority 0
  tcp dport {LOSSY} meta length > 1000 numgen random mod 1000 < 30 counter drop
 }}
}}
"""


def run(*argv: str, text: str | None = None) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True, input=text).stdout


def slow_loopback() -> None:
    """A packet is a packet here: neither as large as loopback likes them, nor several at once."""
    run("ip", "link", "set", "lo", "mtu", "1500", "gso_max_segs", "1", "up")
    limits = ["rate", f"{RATE_MBIT}mbit", "burst", "16kb", "limit", "4mb"]
    run("tc", "qdisc", "add", "dev", "lo", "root", "tbf", *limits)
    run("nft", "-f", "-", text=RULES)


def dropped() -> int:
    rules = json.loads(run("nft", "--json", "list", "ruleset"))["nftables"]
    (rule,) = (entry["rule"]["expr"] for entry in rules if "rule" in entry)
    return next(part["counter"]["packets"] for part in rule if "counter" in part)


@contextmanager
def connected(port: int, receive_bytes: int = 0, send_bytes: int = 0) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give both ends of a connection, with buffers of these sizes."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.socket())
        if receive_bytes:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        listening.bind(("127.0.0.1", port))
        listening.listen()
        sender = stack.enter_context(socket.socket())
        if send_bytes:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_bytes)
            # Else it depends on the congestion control whether that or the buffer holds it up.
            sender.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, RATE_MBIT * 1_000_000 // 8)
        sender.connect(("127.0.0.1", port))
        yield sender, stack.enter_context(listening.accept()[0])


def read(receiver: socket.socket, size: int, pause_s: float) -> None:
    while size:
        size -= len(receiver.recv(min(size, 16384)))
        time.sleep(pause_s)


def carry(port: int, size: int, receive_bytes: int = 0, send_bytes: int = 0, pause_s: float = 0.0) -> dict:
    """Send so many bytes to a reader that pauses after each piece."""
    with connected(port, receive_bytes, send_bytes) as (sender, receiver):
        reader = threading.Thread(target=read, args=(receiver, size, pause_s))
        reader.start()
        began_s = time.monotonic()
        sender.sendall(bytes(size))
        reader.join()
        return {"seconds": time.monotonic() - began_s, "tcp": sampled(port)}


def ping(port: int, times: int) -> dict:
    """Send a byte there and back, so often."""
    with connected(port) as (sender, receiver):
        sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        receiver.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        echo = threading.Thread(target=lambda: [receiver.sendall(receiver.recv(1)) for _ in range(times)])
        echo.start()
        trips_ms = []
        for _ in range(times):
            began_s = time.monotonic()
            sender.sendall(b"x")
            sender.recv(1)
            trips_ms.append(1e3 * (time.monotonic() - began_s))
        echo.join()
        return {"least_ms": min(trips_ms), "late_ms": statistics.median(trips_ms[-16:]), "tcp": sampled(port)}


@contextmanager
def filled() -> Iterator[None]:
    """Keep another connection's packets in the queue."""
    done = threading.Event()

    def fill() -> None:
        while not done.is_set():
            sender.sendall(bytes(10_000))
        sender.shutdown(socket.SHUT_WR)

    def drain() -> None:
        while receiver.recv(16384):
            pass

    with connected(FILL) as (sender, receiver):
        threads = [threading.Thread(target=fill), threading.Thread(target=drain)]
        for thread in threads:
            thread.start()
        while sampled(FILL)["rtt_ms"] < QUEUE_MS:
            time.sleep(0.001)
        yield
        done.set()
        for thread in threads:
            thread.join()


def sampled(port: int) -> dict:
    return msgspec.to_builtins(Sockets().tcp(("127.0.0.1", port)))


if __name__ == "__main__":
    slow_loopback()
    found = {
        "lossy": carry(LOSSY, 2_000_000) | {"dropped": dropped()},
        "plain": carry(PLAIN, 1_000_000),
        "slow reader": carry(SLOW_READER, 300_000, receive_bytes=8192, pause_s=0.005),
        "small buffer": carry(SMALL_BUFFER, 1_000_000, send_bytes=4096),
        "idle": ping(IDLE, 50),
    }
    with filled():
        found["busy"] = ping(BUSY, 60)
    sys.stdout.write(json.dumps(found))
