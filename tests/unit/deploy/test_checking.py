"""`deploy check`: every host has its row, whatever is wrong with it, and nothing is changed."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from deploy.checking import check_lab
from deploy.errors import HostError
from deploy.inventory import Host, Inventory, Python, Ssh
from deploy.remote.fake import FakeRemote

CNN = "flclient.apps.cifar10"


def host(name, role="client"):
    return Host(name=name, role=role, host="192.0.2.1", ssh=Ssh(), python=Python(), workdir="~/.fieldlab")


LAB = Inventory(
    file=Path("lab.yaml"),
    lab="bench",
    playbook=None,
    server=host("server", "server"),
    server_address="192.0.2.1:8080",
    clients=(host("pi-a"), host("pi-b")),
)


@pytest.fixture
def remotes(facts):
    """Give three good hosts."""
    good = msgspec.json.encode(facts()).decode()
    return {one.name: FakeRemote(one.name, {(): good}) for one in LAB.hosts}


def checked(remotes):
    """Return whether a run can start, and the table as lines."""

    def connect(one):
        remote = remotes[one.name]
        if isinstance(remote, Exception):
            raise remote
        return remote

    report, output = check_lab(LAB, CNN, connect), StringIO()
    Console(file=output, width=200).print(report.table)
    return report.ok, output.getvalue()


def test_good_hosts_are_ready(remotes):
    """A row for each, with what it is; hosts are only looked at, and let go of."""
    ok, text = checked(remotes)
    assert ok
    assert text.count("ready") == 3
    assert "Raspberry Pi 4" in text
    assert "Python 3.11.2" in text
    for remote in remotes.values():
        assert {call.verb for call in remote.calls} == {"read"}
        assert remote.closed


def test_every_host_says_what_is_wrong(remotes, facts):
    """One cannot be reached, one answers nonsense, one has no torch: each has its row, and no run can start."""
    remotes["server"].answers = {(): "Welcome [bold]home[/bold]\n"}
    remotes["pi-a"] = HostError("pi-a", "connect", "connection refused")
    packages = facts().packages | {"torch": None}
    remotes["pi-b"].answers = {(): msgspec.json.encode(facts(packages=packages)).decode()}
    ok, text = checked(remotes)
    assert not ok
    assert "server: look: an answer that cannot be understood: 'Welcome [bold]home[/bold]" in text
    assert "pi-a: connect: connection refused" in text
    assert "lacks torch; /home/pi/venv/bin/python -m pip install torch" in text
    assert remotes["server"].closed
    assert remotes["pi-b"].closed
