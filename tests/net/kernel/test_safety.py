"""What the kernel layer leaves alone, puts back and refuses: in a guest with real netem."""

from __future__ import annotations

import json
import re
import statistics
import sys
import time
from typing import TYPE_CHECKING

import pytest

from deploy.remote.ssh import connect
from flclient.link.protocol import (
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
from flcommon.link import Way

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


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
        talk.tell(json.dumps([peer.server, words]).encode() + b"\n")
        return json.loads(talk.hear())

    return shape


PRIORS = (
    "root handle 10: fq_codel limit 500 target 7ms noecn",
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


def test_what_is_not_there_is_said(guest, peer):
    """An interface, a way to the server, before anything is touched; and one that can be shaped is said to be."""
    for setup, named in (
        ({"interface": "wlan7"}, "no interface 'wlan7' on this host (it has: lo, vec0)"),
        ({"server": "192.0.2.1:8080"}, "no route"),
    ):
        broke = guest.check(peer, **setup)
        assert isinstance(broke, Broke)
        assert named in broke.reason
    ready = guest.check(peer, interface="vec0")
    assert isinstance(ready, Ready)
    assert ready.about["interface"] == "vec0"


def test_two_keepers_do_not_share_an_interface(guest, peer):
    """The second one is told so, and the first one's link stays; `--clean` leaves it alone too."""
    keeper = guest.start(peer)
    keeper.set(Way(delay_ms=1))
    shaped = guest.state()
    broke = guest.check(peer)
    assert isinstance(broke, Broke)
    assert "another client" in broke.reason
    assert guest.clean() == ""
    assert guest.state() == shaped
    keeper.talk.end()


def test_a_link_without_a_controller_is_natural(guest, peer, prior):
    """When the lease is stale everything is taken off, and what was wanted is put back when it is held again."""
    probe = guest.probe(peer)
    natural = probe.lowest_rtt_ms()
    guest.sh("printf left >/run/control")
    keeper = guest.start(peer, lease="/run/control", lease_s=1.0)
    keeper.set(Way(delay_ms=30))
    guest.sh("printf 1 >/run/control")  # the last word came when the host was started
    assert isinstance(keeper.hear(), Natural)
    assert guest.state() == prior
    assert keeper.set(Way(delay_ms=40)).up is None
    assert keeper.ask(Mark(message="m", up=True)).packets is None
    assert probe.later_ms(natural, 0) < 1
    guest.sh("printf left >/run/control")
    assert isinstance(keeper.hear(), Restored)
    assert probe.later_ms(natural, 40) == pytest.approx(40, abs=2)
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
    setup = Setup(server=peer.server)
    said = line(setup) + line(Set(number=1, up=Way(delay_ms=5), down=Way(delay_ms=5)))
    argv = guest.python("-m", "flclient.link.kernel")
    client = guest.talk(sys.executable, "-S", "-E", "-c", CLIENT, said.decode(), *argv)
    pids = tuple(map(int, client.hear().split()))
    assert "f1ab:" in guest.state()
    return pids


def gone(guest, pid: int) -> None:
    guest.sh('while grep -q "^State:.[^Z]" "/proc/$1/status"; do sleep 0.05; done 2>/dev/null', f"{pid}")


@pytest.mark.parametrize(("whom", "how"), [(0, "KILL"), (1, "TERM")], ids=["client", "keeper"])
def test_the_link_is_natural_after_its_client(guest, shaped, whom, how):
    """Killed with -9, though a process that it forked lives on and holds its pipes; or after a signal to the keeper."""
    guest.sh(f"kill -{how} {shaped[whom]}")
    gone(guest, shaped[1])
    assert "f1ab:" not in guest.state()


def test_a_killed_keeper_leaves_what_the_next_one_removes(guest, peer, prior):
    """After SIGKILL all is still there; the next keeper, and `--clean`, which says so, find what there was before."""
    guest.sh("ip link add fieldlab-77 type ifb")  # of an interface that is gone
    for _ in range(2):
        keeper = guest.start(peer)
        keeper.set(Way(delay_ms=5), Way(delay_ms=5))
        guest.sh("kill -9 $(pgrep -f flclient.link.[k]ernel)")
        keeper.talk.process.wait(timeout=20)
        assert "f1ab:" in guest.state()
    removed = ("vec0: ingress", "vec0: root f1ab:", "fieldlab-2", "fieldlab-77")
    assert guest.clean() == "".join(f"{what}: removed\n" for what in removed)
    assert guest.state() == prior


def test_ssh_is_not_shaped(guest, peer, bystander):
    """Neither the SSH server's answers to the very machine whose other port is shaped, nor anybody else's packets."""
    keeper = guest.start(peer)
    other = guest.probe(bystander)
    slow = Way(delay_ms=50, loss_pct=10, rate_mbit=1)
    talks: dict[bool, list[float]] = {True: [], False: []}
    others: dict[bool, list[float]] = {True: [], False: []}
    echo = guest.talk("cat")
    for shaped in (True, False) * 4:
        keeper.set(slow, slow) if shaped else keeper.ask(Clear(number=1))
        talks[shaped].append(statistics.median(_echo_s(echo) for _ in range(20)))
        others[shaped].append(other.rtt_ms())
    keeper.talk.end()
    assert min(talks[True]) < 1.2 * min(talks[False])
    assert min(others[True]) < 1.2 * min(others[False])


def _echo_s(echo) -> float:
    started = time.perf_counter()
    echo.tell(b"x\n")
    echo.hear()
    return time.perf_counter() - started


def test_a_kernel_without_netem_is_said(lab, code):
    """A host in a namespace of this machine, where its kernel has none: one sentence, and nothing stays."""
    with connect(lab.clients[0]) as remote:
        has_netem = "sh", "-c", "tc qdisc add dev lo root netem 2>&1; tc qdisc del dev lo root 2>&1; true"
        if "unknown" not in remote.run(has_netem, step="look"):
            pytest.skip("this machine's kernel has netem")
        place, packed = code
        remote.put(iter([packed]), ["sh", "-c", f"mkdir {place}; tar -x -C {place}"], step="push")
        setup = line(Setup(server=f"{lab.server.host}:8080"))
        argv = ["env", f"PYTHONPATH={place}", sys.executable, "-P", "-m", "flclient.link.kernel"]
        before = remote.run(["sh", "-c", "tc qdisc show; ip -o link"], step="look")
        script = '"$@"; echo $?'
        said = remote.run(["sh", "-c", script, "sh", *argv], step="shape", stdin=setup).splitlines()
        assert said[1:] == ["1"]
        broke = answers.decode(said[0].encode())
        assert isinstance(broke, Broke)
        assert "this host's kernel has no netem (module sch_netem)" in broke.reason
        assert remote.run(["sh", "-c", f"rm -r {place}; tc qdisc show; ip -o link"], step="look") == before
