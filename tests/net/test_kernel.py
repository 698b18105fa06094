"""The kernel layer against real netem: in a guest with a kernel of its own, seen from outside."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import ipaddress
import json
import math
import re
import shlex
import socket
import statistics
import struct
import subprocess
import sys
import tarfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from deploy.providers.netns.lab import addresses6
from deploy.providers.netns.plan import CALLER
from deploy.remote.ssh import connect
from flclient.link.protocol import (
    Applied,
    Broke,
    Clear,
    Mark,
    Natural,
    Ready,
    Restored,
    Set,
    Setup,
    answers,
    line,
)
from flcommon.link import NATURAL, Burst, Way

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deploy.inventory import Host
    from deploy.remote.protocol import Remote
    from flclient.link.protocol import Answer, Request

SOURCE = Path(__file__).resolve().parents[2]
CODE = "/tmp/code"  # noqa: S108 - in the guest, whose own it is
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
class Guest:
    """A host with netem, how it is reached, and the way back from it to this process, over which nothing else goes."""

    host: Host
    remote: Remote
    stack: contextlib.ExitStack
    home: str
    home6: str
    prober: Talk | None = None

    def sh(self, script: str, *words: str) -> str:
        return self.remote.run(["sh", "-c", script, "sh", *words], step="test")

    def talk(self, *argv: str) -> Talk:
        """Start a program there; it ends with the test."""
        ssh = self.host.ssh
        options = ("BatchMode=yes", f"UserKnownHostsFile={ssh.known_hosts}", "LogLevel=ERROR", "ControlMaster=no")
        words = [word for option in options for word in ("-o", option)]
        command = ["ssh", "-i", ssh.identity_file, *words, f"root@{self.host.host}", shlex.join(argv)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
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


@pytest.fixture(scope="module")
def machine(uml, make_lab) -> Iterator[Guest]:
    """Boot the guest, once for all tests: each leaves it as it was."""
    with uml.uml_lab(make_lab(), "client-1") as lab, connect(lab.clients[0]) as remote, contextlib.ExitStack() as stack:
        remote.put(iter([_code()]), ["sh", "-c", f"mkdir {CODE}; tar -x -C {CODE}"], step="push")
        caller = [ipaddress.ip_address(host) - 1 + CALLER for host in (lab.server.host, addresses6(lab)["server"])]
        guest = Guest(lab.clients[0], remote, stack, *map(str, caller))
        guest.prober = guest.talk(sys.executable, "-S", "-E", "-c", PROBE)
        yield guest


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
    with contextlib.closing(Peer(getattr(guest, request.param))) as peer:
        yield peer


def start(guest: Guest, peer: Peer, **setup: object) -> Keeper:
    keeper = Keeper(guest.talk(*guest.python("-m", "flclient.link.kernel")))
    host = f"[{peer.host}]" if ":" in peer.host else peer.host
    ready = keeper.ask(Setup(server=f"{host}:{peer.port}", **setup))
    assert isinstance(ready, Ready), ready
    return keeper


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


def probe_of(guest: Guest, peer: Peer) -> Probe:
    return Probe(guest.prober, peer)


def lowest_rtt_ms(probe: Probe, rounds: int = 3) -> float:
    """Return the lowest median of several rounds: what a busy machine adds is not the link's."""
    return min(probe.rtt_ms() for _ in range(rounds))


def later_ms(probe: Probe, natural: float, ms: float) -> float:
    """Return by how much answers are later than naturally, after more rounds if a busy machine has made them so."""
    found = math.inf
    for _ in range(8):
        found = min(found, probe.rtt_ms() - natural)
        if found < ms + tolerance(ms):
            break
    return found


def tolerance(ms: float) -> float:
    return max(1.0, 0.05 * ms)


def near(ms: float) -> object:
    return pytest.approx(ms, abs=tolerance(ms))


def test_each_direction_is_as_late_as_asked(guest, either):
    """Over IPv4 and IPv6; the answer has what the kernel says; cleared, the link is as it was."""
    probe = probe_of(guest, either)
    natural = lowest_rtt_ms(probe)
    keeper = start(guest, either)
    late = keeper.set(up=Way(delay_ms=5))
    assert (late.up["delay_ms"], late.down) == (pytest.approx(5), None)
    assert later_ms(probe, natural, 5) == near(5)
    assert keeper.set(down=Way(delay_ms=20)).up is None
    assert later_ms(probe, natural, 20) == near(20)
    keeper.set(Way(delay_ms=60), Way(delay_ms=40))
    assert later_ms(probe, natural, 100) == near(100)
    cleared = keeper.ask(Clear(number=7))
    assert (cleared.number, cleared.up, cleared.down) == (7, None, None)
    assert later_ms(probe, natural, 0) < 1
    assert keeper.talk.end() == b""


def test_jitter_scatters(guest, peer):
    """With the distribution that was asked for, also when another was there before; packets keep their order."""
    probe = probe_of(guest, peer)
    keeper = start(guest, peer)
    for distribution, middle in (("normal", 2.56 * 6), ("uniform", 1.6 * 6)):
        keeper.set(up=Way(delay_ms=20, jitter_ms=6, distribution=distribution))
        took = statistics.quantiles((1e3 * one for one in probe(pings=80)["took"]), n=10)
        assert took[-1] - took[0] == pytest.approx(middle, rel=0.25)
    keeper.set(up=Way(delay_ms=20, jitter_ms=15))
    assert probe(up=300_000)["retrans"] == 0
    keeper.talk.end()


def test_a_rate_is_kept(guest, peer):
    """Of 20 Mbit/s, as much is left for data as full Ethernet frames leave; nothing overflows."""
    probe = probe_of(guest, peer)
    keeper = start(guest, peer)
    for direction in ("up", "down"):
        assert getattr(keeper.set(**{direction: Way(rate_mbit=20)}), direction)["rate_mbit"] == 20
        rates = [probe.mbit(direction, 3_000_000) for _ in range(2)]
        assert max(rates) == pytest.approx(20 * 1448 / 1514, rel=0.08)
        used = keeper.ask(Mark(message="m", up=direction == "up"))
        assert (used.dropped, used.overflowed) == (0, 0)
        assert used.size_bytes > 6_000_000
        assert keeper.ask(Mark(message="n", up=direction == "up")).size_bytes < 3_000
    keeper.talk.end()


@pytest.mark.parametrize(
    ("way", "share", "together"),
    [(Way(loss_pct=2), 0.02, 1), (Way(loss_burst=Burst(p_pct=0.3, r_pct=30)), 1 / 101, 2 / 0.3 - 1)],
    ids=["random", "bursts"],
)
def test_packets_are_lost_one_by_one(guest, peer, way, share, together):
    """The share that was asked for, within what chance allows, though TCP hands down super-packets."""
    probe = probe_of(guest, peer)
    keeper = start(guest, peer)
    for direction in ("up", "down"):
        keeper.set(**{direction: way})
        probe(**{direction: 4_000_000})
        used = keeper.ask(Mark(message="m", up=direction == "up"))
        offered = used.packets + used.dropped
        assert offered > 2_700
        deviation = (offered * share * (1 - share) * together) ** 0.5
        assert used.dropped == pytest.approx(offered * share, abs=5 * deviation)
        assert used.overflowed == 0
    keeper.talk.end()


def test_what_the_kernel_holds_is_read_back(guest, peer):
    """All that a way can ask for, in its own units; what one way asked for is not left in the next."""
    keeper = start(guest, peer)
    way = Way(
        delay_ms=12.5,
        jitter_ms=1.25,
        distribution="pareto",
        loss_burst=Burst(p_pct=1, r_pct=20, bad_loss_pct=90, good_loss_pct=0.5),
        rate_mbit=0.5,
        reorder_pct=25,
        duplicate_pct=0.1,
    )
    held = keeper.set(way, way)
    asked = {
        "delay_ms": 12.5,
        "jitter_ms": 1.25,
        "loss_burst.p_pct": 1,
        "loss_burst.r_pct": 20,
        "loss_burst.bad_loss_pct": 90,
        "loss_burst.good_loss_pct": 0.5,
        "rate_mbit": 0.5,
        "reorder_pct": 25,
        "duplicate_pct": 0.1,
    }
    for found in (held.up, held.down):
        assert {name: found[name] for name in asked} == pytest.approx(asked, rel=1e-3)
        assert found.keys() - asked.keys() == {"limit_packets"}
    assert keeper.set(Way(delay_ms=3)).up.keys() == {"delay_ms", "limit_packets"}
    keeper.talk.end()


def test_steps_come_true_in_time(guest, peer):
    """Sent ahead, each is answered when it holds; what has not come true by the next one for now is void."""
    keeper = start(guest, peer)
    now = keeper.set(Way(delay_ms=1)).mono_ns
    later = [Set(number=n, up=Way(delay_ms=n), down=NATURAL, at_ns=now + n * 300_000_000) for n in (2, 1, 200)]
    keeper.talk.tell(b"".join(map(line, later)))
    for number in (1, 2):
        step = keeper.hear()
        assert (step.number, step.up["delay_ms"]) == (number, pytest.approx(number))
        assert step.mono_ns - now >= number * 300_000_000
    assert keeper.ask(Clear(number=9)).number == 9
    assert keeper.talk.end() == b""
    assert guest.sh("tc qdisc show dev vec0").startswith("qdisc pfifo_fast 0:")


SHAPE = """
import json, subprocess, sys
from flclient.link.errors import LinkError
from flclient.link.rules import Rules, remove
from flclient.link.target import find_target
from flclient.link.tools import find_tools
from flcommon.link import Way
tools = find_tools()
def tc(*words):
    return subprocess.run(["tc", *words], capture_output=True, text=True, check=True).stdout
for line in sys.stdin:
    server, words = json.loads(line)
    tc("qdisc", "add", "dev", "vec0", *words.split())
    states, said = [tc("qdisc", "show")], ""
    try:
        target = find_target(server, "", tools)
        rules = Rules(tools, target)
        rules.install()
        rules.set(Way(delay_ms=1), Way(rate_mbit=5))
        states.append(tc("qdisc", "show"))
        said = "; ".join(filter(None, remove(tools, target.interface).values()))
    except LinkError as error:
        said = str(error)
    states.append(tc("qdisc", "show"))
    tc("qdisc", "del", "dev", "vec0", words.split()[0])
    print(json.dumps([states, said]), flush=True)
"""


@pytest.fixture
def shape_over(guest, peer) -> Callable[[str], tuple[list[str], str]]:
    """Give a function that shapes over what somebody else has put there, and stops: all states, and what was said."""
    talk = guest.talk(*guest.python("-c", SHAPE))

    def shape(words: str) -> tuple[list[str], str]:
        talk.tell(json.dumps([f"{peer.host}:{peer.port}", words]).encode() + b"\n")
        return json.loads(talk.hear())

    return shape


PRIORS = (
    "root handle 10: fq_codel limit 500 target 7ms noecn",
    "root handle 9: fq_codel",
    "root handle 11: fq flow_limit 50 maxrate 500mbit nopacing",
    "root pfifo limit 77",
    "root handle 12: bfifo limit 99999",
    "root handle 13: sfq perturb 10",
)


def test_what_was_there_is_put_back_exactly(shape_over):
    """A queueing discipline with options of its own, under its own handle; meanwhile, others' packets still have it."""
    for words in PRIORS:
        (before, during, after), said = shape_over(words)
        assert (after, said) == (before, "")
        kind = before.splitlines()[1].split()[1]
        assert "qdisc prio f1ab: dev vec0 root" in during
        assert [line for line in during.splitlines() if line.startswith(f"qdisc {kind} ") and "parent f1ab:1" in line]


FOREIGN = {
    "root handle 1: htb default 1": "htb 1:",
    "root handle 2: netem delay 1ms": "netem 2:",
    "root handle 3: tbf rate 1gbit burst 32kb limit 100000 peakrate 2gbit mtu 1600": "tbf 3:",
    "root handle 4: sfq redflowlimit 100000 min 8000 max 60000 avpkt 1000 burst 20 probability 0.20": "sfq 4:",
    "ingress": "ingress",
}


def test_what_could_not_be_put_back_is_left_alone(shape_over):
    """Refused, in one sentence that says what is there, and how it could be removed; it stays as it was."""
    for words, named in FOREIGN.items():
        (before, after), said = shape_over(words)
        assert named in said
        assert "tc qdisc del dev vec0" in said
        assert _without_counts(after) == _without_counts(before)


def _without_counts(state: str) -> str:
    return re.sub("direct_packets_stat [0-9]+", "", state)


@pytest.fixture
def prior(guest) -> Iterator[str]:
    """Put a queueing discipline there as somebody else would, for the length of a test; gives the guest's state."""
    guest.sh("tc qdisc add dev vec0 root handle 10: fq_codel limit 500 target 7ms noecn")
    yield guest.state()
    guest.sh("tc qdisc del dev vec0 root")


def check(guest: Guest, peer: Peer, **setup: str) -> Answer:
    """Ask whether a link could be shaped."""
    server = setup.pop("server", f"{peer.host}:{peer.port}")
    return Keeper(guest.talk(*guest.python("-m", "flclient.link.kernel", "--check"))).ask(Setup(server=server, **setup))


def test_what_is_not_there_is_said(guest, peer):
    """An interface, a way to the server, before anything is touched; and one that can be shaped is said to be."""
    for setup, named in (
        ({"interface": "wlan7"}, "no interface 'wlan7' on this host (it has: lo, vec0)"),
        ({"server": "192.0.2.1:8080"}, "no route"),
    ):
        broke = check(guest, peer, **setup)
        assert isinstance(broke, Broke)
        assert named in broke.reason
    ready = check(guest, peer, interface="vec0")
    assert isinstance(ready, Ready)
    assert ready.about["interface"] == "vec0"


def test_two_keepers_do_not_share_an_interface(guest, peer):
    """The second one is told so, and the first one's link stays; `--clean` leaves it alone too."""
    keeper = start(guest, peer)
    keeper.set(Way(delay_ms=1))
    shaped = guest.state()
    broke = check(guest, peer)
    assert isinstance(broke, Broke)
    assert "another client" in broke.reason
    assert clean(guest) == ""
    assert guest.state() == shaped
    keeper.talk.end()


def clean(guest: Guest) -> str:
    return guest.remote.run(guest.python("-m", "flclient.link.kernel", "--clean"), step="clean")


def test_a_link_without_a_controller_is_natural(guest, peer, prior):
    """When the lease is stale everything is taken off, and what was wanted is put back when it is held again."""
    probe = probe_of(guest, peer)
    natural = lowest_rtt_ms(probe)
    guest.sh("printf left >/run/control")
    keeper = start(guest, peer, lease="/run/control", lease_s=1.0)
    keeper.set(Way(delay_ms=30))
    guest.sh("printf 1 >/run/control")  # the last word came when the host was started
    assert isinstance(keeper.hear(), Natural)
    assert guest.state() == prior
    assert keeper.set(Way(delay_ms=40)).up is None
    assert keeper.ask(Mark(message="m", up=True)).packets is None
    assert later_ms(probe, natural, 0) < 1
    guest.sh("printf left >/run/control")
    assert isinstance(keeper.hear(), Restored)
    assert later_ms(probe, natural, 40) == near(40)
    assert keeper.ask(Mark(message="m", up=True)).packets > 0
    assert keeper.talk.end() == b""
    assert guest.state() == prior


CLIENT = """
import os, subprocess, sys
keeper = subprocess.Popen(sys.argv[2:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
keeper.stdin.write(sys.argv[1].encode())
keeper.stdin.flush()
for _ in range(2):
    keeper.stdout.readline()
print(os.getpid(), keeper.pid, flush=True)
os.fork()  # a worker of the client's, which holds its pipes, and outlives it for a while
sys.stdin.read()
"""


@pytest.fixture
def shaped(guest, peer) -> tuple[int, int]:
    """Have a client in the guest shape its link; gives its process id, and that of its keeper."""
    setup = Setup(server=f"{peer.host}:{peer.port}")
    said = line(setup) + line(Set(number=1, up=Way(delay_ms=5), down=Way(delay_ms=5)))
    argv = guest.python("-m", "flclient.link.kernel")
    client = guest.talk(sys.executable, "-S", "-E", "-c", CLIENT, said.decode(), *argv)
    pids = tuple(map(int, client.hear().split()))
    assert "f1ab:" in guest.state()
    return pids


def gone(guest: Guest, pid: int) -> None:
    guest.sh('while grep -q "^State:.[^Z]" "/proc/$1/status"; do sleep 0.05; done 2>/dev/null', f"{pid}")


@pytest.mark.parametrize(("whom", "how"), [(0, "KILL"), (1, "TERM")], ids=["client", "keeper"])
def test_the_link_is_natural_after_its_client(guest, shaped, whom, how):
    """Killed with -9, though a process that it forked lives on and holds its pipes; or after a signal to the keeper."""
    guest.sh(f"kill -{how} {shaped[whom]}")
    gone(guest, shaped[1])
    assert "f1ab:" not in guest.state()


def test_a_killed_keeper_leaves_what_the_next_one_removes(guest, peer, prior):
    """After SIGKILL all is still there; `--clean` says what it removes, and finds what there was before."""
    said = []
    guest.sh("ip link add fieldlab-77 type ifb")  # of an interface that is gone
    for next_one in (False, True):
        keeper = start(guest, peer)
        keeper.set(Way(delay_ms=5), Way(delay_ms=5))
        guest.sh("kill -9 $(pgrep -f flclient.link.[k]ernel)")
        keeper.talk.process.wait(timeout=20)
        assert "f1ab:" in guest.state()
        if next_one:
            start(guest, peer).talk.end()
        else:
            said.append(clean(guest))
        assert guest.state() == prior
    removed = ("vec0: ingress", "vec0: root f1ab:", "fieldlab-2", "fieldlab-77")
    assert said == ["".join(f"{what}: removed\n" for what in removed)]


def test_ssh_is_not_shaped(guest, peer):
    """Neither the SSH server's answers to the very machine whose other port is shaped, nor anybody else's packets."""
    keeper = start(guest, peer)
    other = Probe(probe_of(guest, peer).talk, Peer(guest.home))
    slow = Way(delay_ms=50, loss_pct=10, rate_mbit=1)
    talks: dict[bool, list[float]] = {True: [], False: []}
    others: dict[bool, list[float]] = {True: [], False: []}
    echo = guest.talk("cat")
    with contextlib.closing(other.peer):
        for shaped in (True, False) * 4:
            keeper.set(slow, slow) if shaped else keeper.ask(Clear(number=1))
            talks[shaped].append(statistics.median(_echo_s(echo) for _ in range(20)))
            others[shaped].append(other.rtt_ms())
    keeper.talk.end()
    assert min(talks[True]) < 1.2 * min(talks[False])
    assert min(others[True]) < 1.2 * min(others[False])


def _echo_s(echo: Talk) -> float:
    started = time.perf_counter()
    echo.tell(b"x\n")
    echo.hear()
    return time.perf_counter() - started


def test_a_kernel_without_netem_is_said(lab):
    """A host in a namespace of this machine, where its kernel has none: one sentence, and nothing stays."""
    with connect(lab.clients[0]) as remote:
        has_netem = "sh", "-c", "tc qdisc add dev lo root netem 2>&1; tc qdisc del dev lo root 2>&1; true"
        if "unknown" not in remote.run(has_netem, step="look"):
            pytest.skip("this machine's kernel has netem")
        remote.put(iter([_code()]), ["sh", "-c", f"mkdir {CODE}; tar -x -C {CODE}"], step="push")
        setup = line(Setup(server=f"{lab.server.host}:8080"))
        argv = ["env", f"PYTHONPATH={CODE}", sys.executable, "-P", "-m", "flclient.link.kernel"]
        before = remote.run(["sh", "-c", "tc qdisc show; ip -o link"], step="look")
        script = '"$@"; echo $?'
        said = remote.run(["sh", "-c", script, "sh", *argv], step="shape", stdin=setup).splitlines()
        assert said[1:] == ["1"]
        broke = answers.decode(said[0].encode())
        assert isinstance(broke, Broke)
        assert "this host's kernel has no netem (module sch_netem)" in broke.reason
        assert remote.run(["sh", "-c", f"rm -r {CODE}; tc qdisc show; ip -o link"], step="look") == before
