"""Many hosts at once: all or none, the first error first, and nothing left behind."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

import msgspec
import psutil
import pytest

from deploy.errors import HostError, LabError
from deploy.remote import ssh
from deploy.remote.fake import FakeRemote
from deploy.remote.fanout import connect_all, fan_out

if TYPE_CHECKING:
    from deploy.inventory import Host, Inventory
    from deploy.remote.protocol import Remote


def test_results_come_in_the_order_of_the_items() -> None:
    turn = threading.Event()

    def work(item: int) -> int:
        if item == 1:
            assert turn.wait(10)
        turn.set()
        return item * 10

    assert list(fan_out({"a": 1, "b": 2}, work).items()) == [("a", 10), ("b", 20)]


def test_no_items_is_no_work() -> None:
    assert fan_out({}, str) == {}


def test_one_failure_is_raised_as_it_is() -> None:
    error = HostError("b", "look", "no")

    def work(item: str) -> None:
        if item == "b":
            raise error

    with pytest.raises(HostError) as caught:
        fan_out({"a": "a", "b": "b"}, work)
    assert caught.value is error


def test_several_failures_are_one_error() -> None:
    def work(item: str) -> None:
        if item != "a":
            raise HostError(item, "look", "no")

    with pytest.raises(LabError) as caught:
        fan_out({name: name for name in "cab"}, work)
    assert list(caught.value.failures) == ["c", "b"]


def test_bug_goes_before_failures() -> None:
    def work(item: str) -> None:
        raise HostError(item, "look", "no") if item == "a" else ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fan_out({"a": "a", "b": "b"}, work)


def test_connect_all_gives_every_host(lab: Inventory) -> None:
    with connect_all(lab.hosts, ssh.connect) as remotes:
        assert list(remotes) == ["server", "client-1", "client-2"]
        homes = fan_out(remotes, lambda remote: remote.read(["pwd"], step="look").strip())
    assert len(set(homes.values())) == 3
    assert own_connections() == []


def test_one_dead_host_closes_the_others(lab: Inventory) -> None:
    """The error is the dead host's own; no thread (see conftest) and no socket of the others stays."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = msgspec.structs.replace(lab.server.ssh, port=unused.getsockname()[1])
        hosts = (*lab.clients, msgspec.structs.replace(lab.server, name="dead", ssh=dead))
        with pytest.raises(HostError, match="dead: connect: "), connect_all(hosts, ssh.connect):
            pytest.fail("was entered")
    assert own_connections() == []


def test_interrupt_while_connecting(lab: Inventory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while one host still connects: the open ones are closed now, the late one when it has connected."""
    fakes = {host.name: FakeRemote(host.name) for host in lab.hosts}
    all_begun, go, interrupted = threading.Barrier(len(fakes) + 1), threading.Event(), KeyboardInterrupt()

    def connect(host: Host) -> Remote:
        all_begun.wait(10)
        if host.name == "server":
            assert go.wait(10)
        return fakes[host.name]

    def interrupting(_futures: object) -> None:
        all_begun.wait(10)
        raise interrupted

    monkeypatch.setattr("deploy.remote.fanout.wait", interrupting)
    with pytest.raises(KeyboardInterrupt) as caught, connect_all(lab.hosts, connect):
        pytest.fail("was entered")
    assert caught.value is interrupted
    assert not fakes["server"].closed
    go.set()
    for thread in threading.enumerate():
        if thread.name.startswith("fan-out"):
            thread.join(10)
    assert all(fake.closed for fake in fakes.values())


def test_failed_close_hides_nothing_and_stops_nothing(lab: Inventory) -> None:
    """Connections are closed whatever fails; the first error is the one raised."""
    closed: list[str] = []

    class Stubborn(FakeRemote):
        def close(self) -> None:
            closed.append(self.host)
            raise HostError(self.host, "close", "will not")

    def connect(host: Host) -> Remote:
        return Stubborn(host.name)

    with pytest.raises(ZeroDivisionError) as caught, connect_all(lab.hosts, connect):
        raise ZeroDivisionError
    assert sorted(closed) == ["client-1", "client-2", "server"]
    assert len(caught.value.__notes__) == 3
    with pytest.raises(HostError, match="will not"), connect_all(lab.hosts, connect):
        pass
    assert len(closed) == 6


def own_connections() -> list[object]:
    """Return this process's connections on loopback, where the hosts of a virtual lab are."""
    with contextlib.suppress(psutil.AccessDenied):
        found = psutil.Process().net_connections("tcp")
        return [c for c in found if c.status == psutil.CONN_ESTABLISHED and c.raddr.ip.startswith("127.")]
    return []
