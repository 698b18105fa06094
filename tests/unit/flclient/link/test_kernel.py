"""What a keeper does of what it is asked, with rules that only remember; the rest is tested against real netem."""

from __future__ import annotations

import os
import sys
import time

import pytest

from flclient.link import kernel
from flclient.link.errors import LinkError
from flclient.link.protocol import Applied, Clear, Mark, Natural, Restored, Set, Setup, Used
from flclient.link.rules import Counters
from flclient.link.target import Interface, find_target
from flclient.link.tools import _why
from flcommon.lease import leave
from flcommon.link import NATURAL, Burst, Way

ETH0 = Interface("eth0", 2, 1500, 1000.0)
LATE, LOSSY, BURSTY = Way(delay_ms=5), Way(loss_pct=1), Way(loss_burst=Burst(p_pct=1, r_pct=1))


class Remembering:
    """Rules of no kernel."""

    def __init__(self) -> None:
        self.done, self.count = [], Counters()

    def install(self) -> None:
        self.done.append("install")

    def set(self, up, down):
        self.done.append((up, down))
        return {"up": {"delay_ms": up.delay_ms}, "down": None}

    def counters(self):
        return self.count, self.count


@pytest.fixture
def said(monkeypatch):
    answers = []
    monkeypatch.setattr(kernel, "say", answers.append)
    monkeypatch.setattr(kernel, "remove", lambda *_: {"root": None})
    return answers


def keeper_of(rules, lease=""):
    return kernel.Keeper(Setup(server="192.0.2.1:80", lease=lease), rules, None, ETH0)


def ask(number, way=LATE, at_ns=None):
    return Set(number=number, up=way, down=NATURAL, at_ns=at_ns)


def test_what_is_sent_ahead_comes_true_in_the_order_of_time(said):
    """Whatever order it was sent in; what is for now makes void what has not come true."""
    rules = Remembering()
    keeper = keeper_of(rules)
    now = time.monotonic_ns()
    for number, at_ns in ((3, now + 10**12), (2, now - 1), (1, now - 2)):
        keeper.hear(ask(number, at_ns=at_ns))
    assert keeper.next_ns == now - 2
    keeper.come_true()
    assert [answer.number for answer in said] == [1, 2]
    keeper.hear(Clear(number=4))
    assert (keeper.next_ns, rules.done[-1], said[-1].up) == (None, (NATURAL, NATURAL), None)


@pytest.mark.parametrize(("way", "counted"), [(LATE, (0, 4)), (LOSSY, (4, None)), (BURSTY, (4, None))])
def test_drops_are_the_loss_that_was_asked_for_or_an_overflow(said, way, counted):
    """Since the last mark, of that direction alone; with loss, an overflow cannot be told from it."""
    rules = Remembering()
    keeper = keeper_of(rules)
    keeper.hear(ask(1, way))
    rules.count = Counters(bytes=100, packets=10, drops=3)
    keeper.hear(Mark(message="a", up=True))
    rules.count = Counters(bytes=1100, packets=11, drops=7)
    keeper.hear(Mark(message="b", up=True))
    used = said[-1]
    assert (used.size_bytes, used.packets, (used.dropped, used.overflowed)) == (1000, 1, counted)
    keeper.hear(Mark(message="c", up=False))
    assert said[-1] == Used(message="c", up=False)


def test_without_a_word_from_a_controller_the_link_is_natural(said, tmp_path):
    """What is asked for meanwhile is answered with what is, and holds when there is a word again."""
    rules, lease = Remembering(), tmp_path / "control"
    keeper = keeper_of(rules, str(lease))
    keeper.look()
    assert [type(answer) for answer in said] == [Natural]
    keeper.hear(ask(5))
    assert said[-1] == Applied(number=5, mono_ns=said[-1].mono_ns)
    assert rules.done == []
    leave(lease)
    keeper.look()
    assert rules.done == ["install", (LATE, NATURAL)]
    assert isinstance(said[-1], Restored)
    keeper.look()
    assert len(said) == 3


def test_it_is_started_with_the_code_and_packages_of_its_client():
    """For sudo drops the environment, and root's home has other packages."""
    argv = kernel.command(is_root=False)
    assert argv[:2] == ["sudo", "-n"]
    assert argv[2:] == kernel.command(is_root=True)
    path = next(word for word in argv if word.startswith("PYTHONPATH="))
    assert set(path.removeprefix("PYTHONPATH=").split(os.pathsep)) == {each for each in sys.path if each}


class Routes:
    """Knows by which interface each address is reached."""

    def __init__(self, **routes: str) -> None:
        self._routes = routes

    def route(self, address: str) -> str | None:
        return self._routes.get(address.replace(".", "_").replace(":", "_"))


def test_the_interface_is_that_of_the_route():
    """The loopback's, of this machine; IPv6 addresses are in brackets."""
    target = find_target("127.0.0.1:8080", "", Routes(**{"127_0_0_1": "lo"}))
    assert (target.interface.name, target.addresses, target.port) == ("lo", ("127.0.0.1",), 8080)
    assert find_target("[::1]:80", "lo", Routes(__1="lo")).addresses == ("::1",)


@pytest.mark.parametrize(
    ("interface", "routes", "said"),
    [
        ("eth77", {"127_0_0_1": "lo"}, "no interface 'eth77' on this host"),
        ("", {}, "no route to the server 127.0.0.1:8080"),
        ("lo", {"127_0_0_1": "eth1"}, "not reached over lo but over eth1"),
    ],
)
def test_a_link_that_would_not_be_felt_is_refused(interface, routes, said):
    with pytest.raises(LinkError, match=said):
        find_target("127.0.0.1:8080", interface, Routes(**routes))


@pytest.mark.parametrize(
    ("lines", "stderr", "said"),
    [
        (
            ["qdisc add dev x root netem"],
            "Error: Specified qdisc kind is unknown.\nCommand failed -:1\n",
            "this host's kernel has no netem (module sch_netem), so it cannot shape a link",
        ),
        (
            ["qdisc show"],
            "RTNETLINK answers: Operation not permitted\nCommand failed -:1\n",
            "only root may shape a link",
        ),
        (["qdisc show", "qdisc del"], "Error: Busy.\nCommand failed -:2\n", "tc qdisc del was refused: Error: Busy."),
    ],
)
def test_what_iproute2_says_becomes_one_sentence(lines, stderr, said):
    assert _why(["/sbin/tc", "-batch", "-"], lines, stderr).startswith(said)
