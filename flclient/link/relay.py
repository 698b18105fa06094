"""`python -m flclient.link.relay`: shapes a client's link in user space; the client's connections go through it.

It speaks `flclient.link.protocol` on standard input and output, needs no privileges, and knows nothing of what it
carries. What a link with these settings does to bytes is told in `flclient.link.lane`; both connections of a client end
here, so packets are neither reordered nor duplicated. Towards the client the buffers are small, so that a rate is felt
at once; towards the server they are the kernel's own, so that the natural network is as it is without a relay.

A `Mark` is answered when what had come in by then has gone out, or after two seconds; later answers wait behind it,
never what they answer for. A `Set` ahead of time is answered when it holds, or never if it has become void. `Tcp`
comes right before the `Used` it belongs to.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import signal
import socket
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from flclient.link.flow import WINDOW_BYTES
from flclient.link.gate import Account, Gate
from flclient.link.pair import Pair, Target
from flclient.link.protocol import Answer, Applied, Broke, Clear, Mark, Ready, Request, Set, Setup, Used, line, requests
from flcommon.link import NATURAL, Way

BUFFER_BYTES = 64 * 1024
"""What the kernel is asked to hold between the client and the relay, in each direction (it doubles that)."""
MOST_CONNECTIONS = 100
"""At once; a client has one, or two where one has died. select(2) could do 500."""
PATIENCE_S = 2.0
"""How long a mark waits for what is on its way."""
NICENESS = -10
_INPUT_BYTES = 1 << 16


class SetupError(Exception):
    """It cannot begin; the text is for a person."""


@dataclass(frozen=True)
class Waiting:
    """A mark that waits until a direction has passed on so many bytes."""

    mark: Mark
    bytes: int
    until_s: float


class Relay:
    """Listens for one client and carries its connections to one server."""

    def __init__(self, loop: asyncio.AbstractEventLoop, output: int) -> None:
        self._loop, self._output = loop, output
        self.over = asyncio.Event()
        self._up, self._down = Gate(loop), Gate(loop)
        for gate in (self._up, self._down):
            gate.account.on_gone = self._answer
        self._listener: socket.socket | None = None
        self._targets: list[Target] = []
        self._pairs: dict[Pair, None] = {}
        self._ahead: dict[int, asyncio.TimerHandle] = {}
        self._answers: deque[Answer | Waiting] = deque()

    def setup(self, request: Setup) -> None:
        """Begin to listen; raises SetupError."""
        self._targets = resolve(request.server)
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._listener = listener
        # Before listen(): the window that is offered to a client follows from it, and it is inherited.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        listener.settimeout(0)
        listener.bind(("127.0.0.1", 0))
        listener.listen(MOST_CONNECTIONS)
        self._loop.add_reader(listener, self._accept)
        host, port = listener.getsockname()
        about = {
            "layer": "a relay in user space",
            "address": f"{host}:{port}",
            "server": request.server,
            "buffers": f"{BUFFER_BYTES} bytes towards the client, the kernel's own towards the server",
            "window": f"{WINDOW_BYTES} bytes a connection and direction",
        }
        self._say(Ready(address=f"{host}:{port}", about=about))

    def heed(self, request: Request) -> None:
        """Do what is asked."""
        match request:
            case Set():
                self._set(request)
            case Clear(number=number):
                self._void()
                self._apply(number, NATURAL, NATURAL)
            case Mark(up=up):
                account = self._account(up=up)
                until_s = self._loop.time() + PATIENCE_S
                self._loop.call_at(until_s, self._answer)
                self._say(Waiting(request, account.accepted_bytes, until_s))
            case _:
                self.refuse("a relay is set up once, by the first line")

    def refuse(self, reason: str) -> None:
        """Say why something asked for is not done."""
        self._say(Broke(reason=reason))

    def close(self) -> None:
        """End all connections."""
        self._void()
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
        for pair in list(self._pairs):
            pair.close()

    def _set(self, request: Set) -> None:
        unable = dict.fromkeys((*request.up.kernel_only, *request.down.kernel_only))
        if unable:
            self.refuse(f"a relay cannot play {' and '.join(unable)}: that needs the layer kernel")
        elif request.at_ns is None:
            self._void()
            self._apply(request.number, request.up, request.down)
        else:
            self._ahead[request.number] = self._loop.call_at(request.at_ns / 1e9, self._come_true, request)

    def _come_true(self, request: Set) -> None:
        self._ahead.pop(request.number, None)
        self._apply(request.number, request.up, request.down)

    def _void(self) -> None:
        for handle in self._ahead.values():
            handle.cancel()
        self._ahead.clear()

    def _apply(self, number: int, up: Way, down: Way) -> None:
        round_trip_ns = round((up.delay_ms + down.delay_ms) * 1e6)
        now_ns = time.monotonic_ns()
        for gate, way in ((self._up, up), (self._down, down)):
            gate.lane.set(way, round_trip_ns, now_ns)
            gate.look_again()
        self._say(Applied(number=number, mono_ns=now_ns, up=self._up.lane.applied(), down=self._down.lane.applied()))

    def _account(self, *, up: bool) -> Account:
        return (self._up if up else self._down).account

    def _say(self, answer: Answer | Waiting) -> None:
        self._answers.append(answer)
        self._answer()

    def _answer(self) -> None:
        """Give the answers that can be given, in the order of the requests."""
        while self._answers:
            answer = self._answers[0]
            if isinstance(answer, Waiting):
                if self._loop.time() < answer.until_s and self._account(up=answer.mark.up).gone_bytes < answer.bytes:
                    return
                answer = self._used(answer.mark)
            self._answers.popleft()
            self._write(answer)

    def _used(self, mark: Mark) -> Used:
        tcp = next((found for pair in reversed(self._pairs) if (found := pair.tcp()) is not None), None)
        if tcp is not None:
            self._write(tcp)
        size, held, longest, stalled = self._account(up=mark.up).report()
        return Used(
            message=mark.message,
            up=mark.up,
            size_bytes=size,
            held_mean_ms=held,
            held_max_ms=longest,
            stalled_ms=stalled,
        )

    def _write(self, answer: Answer) -> None:
        data = line(answer)
        try:
            while data:
                data = data[os.write(self._output, data) :]
        except OSError:  # nobody listens any more
            self.over.set()

    def _accept(self) -> None:
        if self._listener is None:
            return
        try:
            near, _ = self._listener.accept()
        except OSError:  # it has gone again
            return
        if len(self._pairs) >= MOST_CONNECTIONS:
            near.close()
            return
        near.settimeout(0)
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pair = Pair(self._up, self._down, near, lambda one: self._pairs.pop(one, None))
        self._pairs[pair] = None
        pair.start(self._targets)


class Ear:
    """Hears a client's lines, until their end."""

    def __init__(self, relay: Relay, descriptor: int) -> None:
        self._relay, self._descriptor = relay, descriptor
        self._begun = b""
        self._is_set_up = False
        self.failed = False

    def hear(self) -> None:
        """Read what is there; the end of it is the end of the relay."""
        data = b""
        with suppress(OSError):
            data = os.read(self._descriptor, _INPUT_BYTES)
        if not data:
            self._relay.over.set()
        *lines, self._begun = (self._begun + data).split(b"\n")
        for one in lines:
            if one.strip() and not self.failed:
                self._hear_line(one)

    def _hear_line(self, text: bytes) -> None:
        try:
            request = requests.decode(text)
            if self._is_set_up:
                self._relay.heed(request)
            elif isinstance(request, Setup):
                self._relay.setup(request)
                self._is_set_up = True
            else:
                raise SetupError("the first line must be a setup")  # noqa: TRY301 - told like any other bad setup
        except msgspec.MsgspecError as error:
            self._break(f"the line cannot be understood: {error}")
        except (SetupError, OSError) as error:
            self._break(f"the relay cannot be set up: {error}")

    def _break(self, reason: str) -> None:
        self._relay.refuse(reason)
        if not self._is_set_up:
            self.failed = True
            self._relay.over.set()


def resolve(server: str) -> list[Target]:
    """Return the addresses behind `host:port`, best first; raises SetupError."""
    host, colon, port = server.rpartition(":")
    if not colon or not host or not port.isdecimal():
        raise SetupError(f"the server's address must be host:port, not {server!r}")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    except (OSError, OverflowError, UnicodeError) as error:
        raise SetupError(f"the server's address {server!r} cannot be resolved: {error}") from error
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


async def main() -> int:
    """Serve until standard input ends, or SIGTERM; return the exit status."""
    loop = asyncio.get_running_loop()
    relay = Relay(loop, sys.stdout.fileno())
    ear = Ear(relay, sys.stdin.fileno())
    for sign in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(sign, relay.over.set)
    loop.add_reader(sys.stdin.fileno(), ear.hear)
    await relay.over.wait()
    loop.remove_reader(sys.stdin.fileno())
    relay.close()
    return int(ear.failed)


def be_punctual() -> None:
    """Ask not to be late by the 50 microseconds that Linux allows timers, nor behind the host's work if that may be."""
    with suppress(OSError):
        Path("/proc/self/timerslack_ns").write_text("1")
    with suppress(OSError):
        os.nice(NICENESS)


def new_loop() -> asyncio.AbstractEventLoop:
    """Return a loop that keeps time to microseconds: epoll's time-outs, asyncio's usual, are whole milliseconds."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


if __name__ == "__main__":
    be_punctual()
    with asyncio.Runner(loop_factory=new_loop) as runner:
        status = runner.run(main())
    sys.exit(status)
