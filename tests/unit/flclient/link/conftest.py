"""A relay in a process of its own, and servers for it in threads, all over real sockets on loopback."""

from __future__ import annotations

import socket
import statistics
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from flclient.link.protocol import Applied, Mark, Ready, Request, Set, Setup, Tcp, Used, answers, line
from flcommon.link import NATURAL, Way

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

LONG_S = 20.0


class Told:
    """A shaping process, and what it says."""

    def __init__(self, stack: ExitStack, layer: str = "relay") -> None:
        argv = [sys.executable, "-m", f"flclient.link.{layer}"]
        self.process = stack.enter_context(
            subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        )
        stack.callback(self.process.kill)
        self.tcp: list[Tcp] = []

    def say(self, *said: Request | bytes) -> None:
        self.process.stdin.write(b"".join(one if isinstance(one, bytes) else line(one) for one in said))
        self.process.stdin.flush()

    def hear(self) -> Any:
        """Return the next answer that is not about TCP."""
        while True:
            answer = answers.decode(self.process.stdout.readline())
            if not isinstance(answer, Tcp):
                return answer
            self.tcp.append(answer)

    def ask(self, said: Request | bytes) -> Any:
        self.say(said)
        return self.hear()

    def set(self, up: Way = NATURAL, down: Way = NATURAL) -> Applied:
        return self.ask(Set(number=1, up=up, down=down))

    def used(self, *, up: bool) -> Used:
        return self.ask(Mark(message="m", up=up))

    def end(self) -> tuple[int, bytes]:
        """Return exit status and what was said to standard error, once it has ended."""
        _, errors = self.process.communicate(timeout=LONG_S)
        return self.process.returncode, errors


class Server:
    """A TCP server in threads: each connection is given to a function."""

    def __init__(self, stack: ExitStack, serve: Callable[[socket.socket], None], host: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = stack.enter_context(socket.create_server((host, 0), family=family))
        self.port = self._listener.getsockname()[1]
        self._serve, self._threads = serve, []
        self._main = threading.Thread(target=self._accept)
        self._main.start()
        stack.callback(self.close)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._main.join(LONG_S)
        self._listener.close()
        for thread in self._threads:
            thread.join(LONG_S)
            assert not thread.is_alive()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                thread = threading.Thread(target=self._one, args=(connection,))
                self._threads.append(thread)
                thread.start()

    def _one(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            self._serve(connection)


def echo(connection: socket.socket) -> None:
    while data := connection.recv(1 << 16):
        connection.sendall(data)


class Bench:
    """A server, the relay in front of it, and connections through it and directly."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def server(self, serve: Callable[[socket.socket], None] = echo, host: str = "127.0.0.1") -> Server:
        return Server(self._stack, serve, host)

    def told(self) -> Told:
        return Told(self._stack)

    def relay(self, server: str) -> tuple[Told, int]:
        """Return a relay and its port."""
        told = self.told()
        ready = told.ask(Setup(server=server))
        assert isinstance(ready, Ready), ready
        return told, int(ready.address.rpartition(":")[2])

    def connect(self, port: int) -> socket.socket:
        connection = self._stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=LONG_S))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    @staticmethod
    def round_trip_ms(connection: socket.socket, times: int = 30) -> float:
        """Return the lower quartile of some round trips, on a machine that may be busy, or the only one."""

        def once() -> float:
            begun = time.perf_counter()
            connection.sendall(b"ping")
            assert connection.recv(4, socket.MSG_WAITALL) == b"ping"
            return (time.perf_counter() - begun) * 1e3

        found = [once() for _ in range(times)]
        return statistics.quantiles(found, n=4)[0] if times > 1 else found[0]


@contextmanager
def _bench() -> Iterator[Bench]:
    before = set(threading.enumerate())
    with ExitStack() as stack:
        yield Bench(stack)
    assert set(threading.enumerate()) <= before


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Give servers, relays and connections; all of them end with the test, and none of its threads stays."""
    with _bench() as bench:
        yield bench


@pytest.fixture
def make_bench() -> Callable[[], AbstractContextManager[Bench]]:
    """Return a function that gives one more, for the length of a with-block."""
    return _bench
