"""A guest with a kernel that has netem, a keeper in it, and the experiment's server, which is this process."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import ipaddress
import json
import math
import shlex
import socket
import statistics
import struct
import subprocess
import sys
import tarfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from deploy.providers.netns.lab import addresses6
from deploy.providers.netns.plan import CALLER
from deploy.remote.ssh import connect
from flclient.link.protocol import (
    Applied,
    Ready,
    Set,
    Setup,
    answers,
    line,
)
from flcommon.link import NATURAL, Way

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.inventory import Host
    from deploy.remote.protocol import Remote
    from flclient.link.protocol import Answer, Request


SOURCE = Path(__file__).resolve().parents[3]
CODE = "/tmp/code"  # noqa: S108 - in the guest, whose own it is
PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
PROBE = """
import json, socket, struct, sys, time
def receive(link, size):
    data = bytearray()
    while len(data) < size:
        data += link.recv(size - len(data))
    return bytes(data)
for line in sys.stdin:
    order = json.loads(line)
    with socket.create_connection((order["host"], order["port"]), timeout=60) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        took = []
        for _ in range(order.get("pings", 0)):
            start = time.perf_counter()
            link.sendall(b"p" * 64)
            receive(link, 64)
            took.append(time.perf_counter() - start)
        if order.get("up"):
            start = time.perf_counter()
            link.sendall(b"u" * 56 + struct.pack("!Q", order["up"]))
            link.sendall(bytes(order["up"]))
            receive(link, 64)
            took = [time.perf_counter() - start]
        if order.get("down"):
            start = time.perf_counter()
            link.sendall(b"d" * 56 + struct.pack("!Q", order["down"]))
            receive(link, order["down"])
            took = [time.perf_counter() - start]
        info = link.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
    print(json.dumps({"took": took, "retrans": struct.unpack_from("I", info, 100)[0]}), flush=True)
"""


class Peer:
    """The experiment's server, in this process: echoes 64 bytes, swallows or sends many."""

    def __init__(self, address: str) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = socket.create_server((address, 0), family=family)
        self.host, self.port = self._listener.getsockname()[:2]
        self.server = f"[{address}]:{self.port}" if ":" in address else f"{address}:{self.port}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                link, _ = self._listener.accept()
                with link:
                    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
                    self._answer(link)

    def _answer(self, link: socket.socket) -> None:
        while said := _receive(link, 64):
            size = struct.unpack("!Q", said[56:])[0]
            if said[:1] == b"d":
                link.sendall(bytes(size))
            elif said[:1] == b"u":
                _receive(link, size)
                link.sendall(said)
            else:
                link.sendall(said)


def _receive(link: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        more = link.recv(min(size - len(data), 1 << 20))
        if not more:
            return b""
        data += more
    return bytes(data)


@dataclass
class Talk:
    """A process in the guest that is spoken with line by line."""

    process: subprocess.Popen[bytes]

    def tell(self, text: bytes) -> None:
        self.process.stdin.write(text)
        self.process.stdin.flush()

    def hear(self) -> bytes:
        return self.process.stdout.readline()

    def end(self) -> bytes:
        """Close its standard input, and return the rest of what it says."""
        self.process.stdin.close()
        rest = self.process.stdout.read()
        self.process.wait(timeout=20)
        return rest


@dataclass
class Keeper:
    """A keeper in the guest, and the client that speaks with it, which is this test."""

    talk: Talk

    def hear(self) -> Answer:
        said = self.talk.hear()
        assert said, "the keeper has ended"
        return answers.decode(said)

    def ask(self, request: Request) -> Answer:
        self.talk.tell(line(request))
        return self.hear()

    def set(self, up: Way = NATURAL, down: Way = NATURAL) -> Applied:
        applied = self.ask(Set(number=1, up=up, down=down))
        assert isinstance(applied, Applied), applied
        return applied


@dataclass
class Probe:
    """Measures in the guest, against the peer, in one process."""

    talk: Talk
    peer: Peer

    def __call__(self, **order: int) -> dict:
        self.talk.tell(json.dumps({"host": self.peer.host, "port": self.peer.port, **order}).encode() + b"\n")
        return json.loads(self.talk.hear())

    def rtt_ms(self, pings: int = 10) -> float:
        return statistics.median(self(pings=pings)["took"]) * 1e3

    def mbit(self, direction: str, size: int) -> float:
        return size * 8e-6 / self(**{direction: size})["took"][0]

    def lowest_rtt_ms(self, rounds: int = 3) -> float:
        """Return the lowest median of several rounds: what a busy machine adds is not the link's."""
        return min(self.rtt_ms() for _ in range(rounds))

    def later_ms(self, natural: float, ms: float) -> float:
        """Return by how much answers are later than naturally, after more rounds if a busy machine has made them so."""
        found = math.inf
        for _ in range(8):
            found = min(found, self.rtt_ms() - natural)
            if found < ms + max(1.0, 0.05 * ms):
                break
        return found


@dataclass
class Guest:
    """A host with netem, how it is reached, and the way back from it to this process, over which nothing else goes."""

    host: Host
    remote: Remote
    stack: contextlib.ExitStack
    home: str
    home6: str | None
    prober: Talk | None = None

    def sh(self, script: str, *words: str) -> str:
        return self.remote.run(["sh", "-c", script, "sh", *words], step="test")

    def ssh(self, *more: str) -> list[str]:
        """Return the beginning of an ssh command line; all of them share one connection."""
        ssh = self.host.ssh
        shared = f"{Path(ssh.identity_file).parent}/shared"
        options = ("BatchMode=yes", f"UserKnownHostsFile={ssh.known_hosts}", "LogLevel=ERROR", f"ControlPath={shared}")
        words = [word for option in options for word in ("-o", option)]
        return ["ssh", "-i", ssh.identity_file, *words, *more, f"root@{self.host.host}"]

    def talk(self, *argv: str) -> Talk:
        """Start a program there; it ends with the test."""
        process = subprocess.Popen([*self.ssh(), shlex.join(argv)], **PIPES)
        self.stack.enter_context(process)
        self.stack.callback(process.kill)
        return Talk(process)

    def python(self, *words: str) -> list[str]:
        return ["env", f"PYTHONPATH={CODE}", sys.executable, "-P", *words]

    def state(self) -> str:
        """All of tc and of links that a keeper may change."""
        return self.sh(
            "tc qdisc show | sed 's/direct_packets_stat [0-9]*//'; ip -o link | sed 's/^[0-9]*: //';"
            " tc filter show dev vec0; tc filter show dev vec0 ingress"
        )

    def start(self, peer: Peer, **setup: object) -> Keeper:
        """Start a keeper of the link to a peer."""
        keeper = Keeper(self.talk(*self.python("-m", "flclient.link.kernel")))
        ready = keeper.ask(Setup(server=peer.server, **setup))
        assert isinstance(ready, Ready), ready
        return keeper

    def check(self, peer: Peer, **setup: str) -> Answer:
        """Ask whether a link could be shaped."""
        keeper = Keeper(self.talk(*self.python("-m", "flclient.link.kernel", "--check")))
        return keeper.ask(Setup(server=setup.pop("server", peer.server), **setup))

    def clean(self) -> str:
        return self.remote.run(self.python("-m", "flclient.link.kernel", "--clean"), step="clean")

    def probe(self, peer: Peer) -> Probe:
        return Probe(self.prober, peer)


@pytest.fixture(scope="package")
def machine(uml, make_lab) -> Iterator[Guest]:
    """Boot the guest, once for all tests: each leaves it as it was."""
    with uml.uml_lab(make_lab(), "client-1") as lab, connect(lab.clients[0]) as remote, contextlib.ExitStack() as stack:
        remote.put(iter([_code()]), ["sh", "-c", f"mkdir {CODE}; tar -x -C {CODE}"], step="push")
        homes = [_caller(address) for address in (lab.server.host, addresses6(lab).get("server"))]
        guest = Guest(lab.clients[0], remote, stack, *homes)
        master = stack.enter_context(subprocess.Popen([*guest.ssh("-M"), "echo up; cat"], **PIPES))
        stack.callback(master.stdin.close)
        assert master.stdout.readline() == b"up\n"
        guest.prober = guest.talk(sys.executable, "-S", "-E", "-c", PROBE)
        yield guest


def _caller(server: str | None) -> str | None:
    """Return this process's own address in a lab whose server has the first one."""
    return None if server is None else str(ipaddress.ip_address(server) - 1 + CALLER)


@pytest.fixture(scope="session")
def code() -> tuple[str, bytes]:
    """Give the code of a keeper, as a tar, and where it is to be unpacked."""
    return CODE, _code()


def _code() -> bytes:
    """Return the part of the code that a keeper needs, as a tar."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for part in ("flcommon", "flclient/__init__.py", "flclient/link"):
            tar.add(SOURCE / part, part, filter=lambda one: None if "__pycache__" in one.name else one)
    return packed.getvalue()


@pytest.fixture
def guest(machine, wait_for) -> Iterator[Guest]:
    """Give the guest, and check that a test leaves it as it found it."""
    before = machine.state()
    with contextlib.ExitStack() as stack:
        yield dataclasses.replace(machine, stack=stack)
    assert wait_for(lambda: machine.state() == before)


@pytest.fixture
def peer(guest) -> Iterator[Peer]:
    with contextlib.closing(Peer(guest.home)) as peer:
        yield peer


@pytest.fixture(params=["home", "home6"], ids=["IPv4", "IPv6"])
def either(request, guest) -> Iterator[Peer]:
    home = getattr(guest, request.param)
    if home is None:
        pytest.skip("this machine has no IPv6")
    with contextlib.closing(Peer(home)) as peer:
        yield peer


@pytest.fixture
def bystander(guest) -> Iterator[Peer]:
    """Give a server at the same address, which is not the experiment's."""
    with contextlib.closing(Peer(guest.home)) as peer:
        yield peer
