"""`deploy check`: every host has its row and its findings, whatever is wrong with it, and nothing is changed."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from deploy import hostside
from deploy.app import embedded
from deploy.checking import check_lab
from deploy.checklist import document, page
from deploy.differences import CONTROLLER, differences
from deploy.errors import HostError
from deploy.health import Clock, Examined, Health
from deploy.inventory import Host, Inventory, Python, Ssh
from deploy.remote.fake import FakeRemote

CNN = embedded("flclient.apps.cifar10")


def host(name: str, role: str = "client", **python: Any) -> Host:
    ssh = Ssh(user="kim", port=2222)
    return Host(name=name, role=role, host="192.0.2.1", ssh=ssh, python=Python(**python), workdir="~/.fieldlab")


LAB = Inventory(
    file=Path("lab.yaml"),
    lab="bench",
    playbook=None,
    server=host("server", "server"),
    server_address="192.0.2.1:8080",
    clients=(host("pi-a"), host("pi-b")),
)


def listens(argv: tuple[str, ...]) -> bool:
    return argv[2:3] == (hostside.source("listen"),)


def reaches(argv: tuple[str, ...]) -> bool:
    return argv[2:3] == (hostside.source("reach"),)


class Told:
    """What a host answers: to the look, as the server's listener, and as a client that tries the port."""

    def __init__(self, facts: Any) -> None:
        self.good = facts
        self.remotes: dict[str, FakeRemote | HostError] = {}
        for one in LAB.hosts:
            self.tell(one.name)

    def tell(self, name: str, *, listen: str = '{"port":8080}', reach: Any = '{"problem":""}', **facts: Any) -> None:
        look = msgspec.json.encode(self.good(**facts)).decode()
        self.remotes[name] = FakeRemote(name, {listens: listen, reaches: reach, (): look})

    def connect(self, one: Host) -> FakeRemote:
        remote = self.remotes[one.name]
        if isinstance(remote, Exception):
            raise remote
        return remote

    def check(self, *, tls: bool = True) -> Any:
        return check_lab(LAB, CNN, self.connect, tls=tls)


@pytest.fixture
def told(facts: Any) -> Told:
    return Told(facts)


def shown(checked: Any, width: int = 200) -> str:
    output = StringIO()
    Console(file=output, width=width).print(page(checked), crop=False)
    return output.getvalue()


def codes(checked: Any) -> dict[str, list[str]]:
    return {name: [one.code for one in found] for name, found in checked.findings.items() if found}


def test_good_hosts_are_ready(told):
    """A row for each, with what it is; hosts are only looked at, and let go of."""
    checked = told.check()
    text = shown(checked)
    assert checked.ok
    assert "bench: can a run of flclient.apps.cifar10 start? yes" in text
    assert text.count("ready") == 3
    assert "Raspberry Pi 4" in text
    assert "Python 3.11.2" in text
    assert "fix:" not in text
    for name, remote in told.remotes.items():
        verbs = ["read", "run"] if name == "server" else ["read", "read"]
        assert [call.verb for call in remote.calls] == verbs
        assert remote.closed


def test_every_host_says_what_is_wrong(told, facts):
    """One cannot be reached, one answers nonsense, one has no torch: each has its row, and no run can start."""
    told.remotes["server"] = FakeRemote("server", {(): "Welcome [bold]home[/bold]\n"})
    told.remotes["pi-a"] = HostError("pi-a", "connect", "connection refused")
    told.tell("pi-b", packages=facts().packages | {"torch": None})
    checked = told.check()
    text = shown(checked)
    assert not checked.ok
    assert codes(checked) == {"server": ["look"], "pi-a": ["connect"], "pi-b": ["packages"]}
    assert "an answer that cannot be understood: 'Welcome [bold]home[/bold]" in text
    assert "connection refused" in text
    assert "fix:     log in by hand to see more: ssh -p 2222 kim@192.0.2.1" in text
    assert "lacks torch" in text
    assert "fix:     /home/pi/venv/bin/python -m pip install torch" in text
    assert "start? no" in text
    assert "ready" not in text
    assert text.count("error    ") == 3
    assert told.remotes["server"].closed
    assert told.remotes["pi-b"].closed


def test_a_finding_of_many_hosts_is_told_once(told):
    """With all their names, and a fix that no width of a terminal cuts into pieces."""
    for name in ("pi-a", "pi-b"):
        told.tell(name, disk_free_mb=1, workdir="/a/very/long/" + "directory/" * 12)
    lines = shown(told.check(), width=40).splitlines()
    assert [line for line in lines if line.startswith("error")] == ["error    pi-a, pi-b"]
    (fix,) = (line for line in lines if "fix:" in line)
    assert fix.endswith("(df -h shows where)")


@pytest.mark.parametrize(
    ("answer", "code", "what", "fix"),
    [
        ('{"busy":"nginx (pid 7)"}', "port-in-use", "port 8080 is in use by nginx (pid 7)", "another port in lab.yaml"),
        ('{"refused":"Cannot assign"}', "port", "cannot listen on 192.0.2.1:8080: Cannot assign", "lab.yaml"),
        ("Welcome", "reach", "an answer that cannot be understood: 'Welcome'", "check again"),
        ("", "reach", "an answer that cannot be understood: ''", "check again"),
        (HostError("server", "reach", "the connection was lost"), "reach", "connection was lost", "check again"),
    ],
)
def test_a_port_that_the_server_cannot_have(told, answer, code, what, fix):
    """Before any client is asked."""
    told.tell("server", listen=answer)
    checked = told.check()
    (found,) = checked.findings["server"]
    assert (found.level, found.code) == ("error", code)
    assert what in found.what
    assert fix in found.fix
    assert len(told.remotes["pi-a"].calls) == 1


@pytest.mark.parametrize(
    ("answer", "what", "fix"),
    [
        ('{"problem":"silent","why":"no answer within 5 s"}', "no answer within 5 s", "on server: sudo ufw allow 8080"),
        ('{"problem":"refused","why":"No route to host"}', "No route to host", "sudo ufw allow 8080/tcp"),
        ('{"problem":"other","why":"x"}', "(192.0.2.1:8080): x", "another machine than server"),
        ('{"problem":"name","why":"y"}', "y", "as an IP address"),
        ('{"problem":"strange"}', "cannot be understood", "check again"),
        (HostError("pi-b", "reach", "the connection was lost"), "the connection was lost", "check again"),
    ],
)
def test_a_client_that_does_not_reach_the_server(told, answer, what, fix):
    """The client is named, with the address that was tried and what opens the way; the others are fine."""
    told.tell("pi-b", reach=answer)
    checked = told.check()
    assert list(codes(checked)) == ["pi-b"]
    (found,) = checked.findings["pi-b"]
    assert found.level == "error"
    assert what in found.what
    assert fix in found.fix


def test_a_lab_that_is_at_work_is_not_disturbed(told):
    """A campaign of ours runs: that is the error, its server has the port, and nobody tries to take it."""
    told.tell("server", running=("/home/pi/.fieldlab/campaigns/c/server",))
    checked = told.check()
    assert codes(checked) == {"server": ["running"]}
    assert checked.findings["server"][0].fix == "deploy down lab.yaml"
    assert len(told.remotes["server"].calls) == 1


def test_a_host_without_python_takes_no_part_in_the_trial_of_the_port(told):
    """It has nothing to connect with; the others still try."""
    told.tell("pi-a", python="", python_version="", packages={}, trouble="there is no Python at python3")
    checked = told.check()
    assert codes(checked) == {"pi-a": ["python"]}
    assert "no Python" in shown(checked)
    assert [len(told.remotes[name].calls) for name in ("pi-a", "pi-b")] == [1, 2]


def test_scripts_get_the_same_as_one_document(told):
    """Facts, findings and the answer; of a host that could not be looked at, the findings."""
    told.remotes["pi-a"] = HostError("pi-a", "connect", "connection refused")
    checked = told.check()
    text = json.loads(document(checked))
    assert (text["lab"], text["app"], text["ok"]) == ("bench", CNN.name, False)
    assert list(text["hosts"]) == ["server", "pi-a", "pi-b"]
    assert text["hosts"]["pi-b"]["facts"]["python_version"] == "3.11.2"
    assert text["hosts"]["pi-b"]["findings"] == []
    assert text["hosts"]["pi-a"]["facts"] is None
    (found,) = text["hosts"]["pi-a"]["findings"]
    assert found == {
        "level": "error",
        "code": "connect",
        "what": "connection refused",
        "fix": "log in by hand to see more: ssh -p 2222 kim@192.0.2.1",
    }
    assert text["controller"] == {"findings": []}


# --- differences between hosts ---------------------------------------------------------------------------------------


def seen(facts: Any, offset_s: float = 0.0, error_s: float = 0.01, **changed: Any) -> Examined:
    return Examined(facts(**changed), Health(), Clock(offset_s, error_s))


def compared(**hosts: Examined) -> dict[str, list[str]]:
    named = {name.replace("_", "-"): one for name, one in hosts.items()}
    found = differences(LAB, named)
    assert all(one.level == "warning" and one.fix for some in found.values() for one in some)
    return {name: [one.what for one in some] for name, some in found.items() if some}


def test_equal_hosts_do_not_differ(facts):
    assert compared(server=seen(facts), pi_a=seen(facts, 0.4), pi_b=seen(facts, -0.5)) == {}


def test_a_clock_that_is_off_is_named(facts):
    """By how much, which way, and how surely; what the uncertainty covers is not."""
    found = compared(server=seen(facts), pi_a=seen(facts, 3.2, 0.02), pi_b=seen(facts, -1.4, 0.5))
    assert found == {"pi-a": ["its clock is 3.2 s ahead of most of the others' (± 0.03 s)"]}


def test_the_controllers_own_clock_may_be_the_one_that_is_off(facts):
    """All hosts agree, and this machine does not."""
    found = compared(server=seen(facts, 30.0), pi_a=seen(facts, 30.1), pi_b=seen(facts, 29.9))
    assert found == {CONTROLLER: ["its clock is 29.9 s behind most of the others' (± 0.01 s)"]}


def test_versions_are_compared_with_the_servers(facts):
    """flwr, torch and the first two numbers of Python; what a builder added to a version does not count."""
    packages = facts().packages | {"flwr": "1.41.0", "torch": "2.5.1+cpu"}
    found = compared(
        server=seen(facts, packages=packages),
        pi_a=seen(facts, packages=packages | {"torch": "2.5.1"}, python_version="3.11.9"),
        pi_b=seen(facts, packages=packages | {"flwr": "1.42.0", "torch": None}, python_version="3.12.1"),
    )
    assert found == {"pi-b": ["it has flwr 1.42.0, the server 1.41.0", "it has Python 3.12.1, the server 3.11.2"]}


def test_hosts_that_could_not_be_looked_at_are_no_measure(facts):
    """Without the server there is nothing to compare versions with, and the clocks of the rest still count."""
    found = compared(pi_a=seen(facts, 9.0, python_version="3.12.1"), pi_b=Examined(facts(), Health(), None))
    assert list(found) == ["pi-a"]
    assert "9.0 s ahead" in found["pi-a"][0]


def test_doing_without_tls_is_a_warning(told: Told) -> None:
    """Said of the playbook, not of a host, and no reason not to start."""
    assert "tls" not in shown(told.check())
    checked = told.check(tls=False)
    assert checked.ok
    assert [(one.level, one.code) for one in checked.findings[CONTROLLER]] == [("warning", "tls")]
    assert "whoever reaches the server's port can join as any client" in shown(checked)
