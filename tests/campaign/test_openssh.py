"""The same life cycle over OpenSSH's own server, which is what a real lab has."""

from __future__ import annotations

import contextlib
import getpass
import io
import json
import socket
import sys

import msgspec
import pytest
from rich.console import Console

from deploy.campaign import Request, up
from deploy.errors import CampaignError, HostError, LabError
from deploy.inspection import lab_status, show_log
from deploy.inventory import load_inventory
from deploy.playbook import load_playbook
from deploy.remote.ssh import connect
from deploy.takedown import take_down
from deploy.worker import Tail
from flcommon import events

HOSTS = ("server", "pi-a", "pi-b")


@pytest.fixture
def lab(openssh, tmp_path):
    """Give the inventory file of a lab of three OpenSSH servers on loopback, run by this user."""
    (tmp_path / "lab.yaml").write_text(_inventory(tmp_path, openssh, {name: openssh.start() for name in HOSTS}))
    return tmp_path / "lab.yaml"


def _inventory(place, openssh, ports):
    workdirs = {name: place / "hosts" / name for name in HOSTS}
    for workdir in workdirs.values():
        workdir.mkdir(parents=True)
    clients = "\n".join(
        f"  {name}: {{host: 127.0.0.1, ssh: {{port: {ports[name]}}}, workdir: {workdirs[name]}}}" for name in HOSTS[1:]
    )
    return f"""
lab: openssh
ssh: {{user: {getpass.getuser()}, identity_file: {openssh.identity_file}, known_hosts: {openssh.known_hosts}}}
python: {{path: {sys.executable}}}
server:
  host: 127.0.0.1
  address: 127.0.0.1:{_free_port()}
  ssh: {{port: {ports["server"]}}}
  workdir: {workdirs["server"]}
clients:
{clients}
"""


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def _up(lab, view, playbook):
    file = lab.parent / "playbook.yaml"
    file.write_text(playbook)
    inventory = contextlib.nullcontext(load_inventory(lab))
    up(Request(inventory, load_playbook(file), lab.parent / "runs", connect), view)


def test_a_campaign_goes_the_same_way(lab, recorder, bench):
    """Twice: the second finds the code on the hosts and pushes nothing; `down` then finds nothing that runs."""
    playbook = "playbook: p\napp: flclient.apps.payload\nrounds: 3\nprobe: off\n"
    for _ in range(2):
        view = recorder()
        _up(lab, view, playbook)
        assert bench.manifest(view).status == "complete"
        assert view.notes == []
        for host in HOSTS:
            assert (view.directory / "raw" / host / "exit.json").read_text() == '{"status":0}'
    bundles = {host: len(list((lab.parent / "hosts" / host / "code").iterdir())) for host in HOSTS}
    assert bundles == dict.fromkeys(HOSTS, 1)
    assert take_down(load_inventory(lab), connect).results == dict.fromkeys(HOSTS, "nothing was running")


def test_a_second_campaign_is_refused_while_one_runs(lab, recorder):
    """Two at once would measure each other; `down` ends the one that runs."""
    refusals = []

    def try_another(_):
        assert _shown(lab_status(load_inventory(lab), connect)).count("running") == len(HOSTS)
        with pytest.raises(
            LabError, match=f"(?s)a campaign runs there already.* end it with: deploy stop {lab}"
        ) as caught:
            _up(lab, recorder(), "playbook: other\napp: flclient.apps.payload\nrounds: 1\n")
        refusals.append(set(caught.value.failures))
        assert any("stopped" in told for told in take_down(load_inventory(lab), connect).results.values())

    view = recorder(events.RoundStarted, try_another)
    with pytest.raises(CampaignError, match="stopped from outside"):
        _up(lab, view, "playbook: long\napp: flclient.apps.payload\nrounds: 1000000\nprobe: off\n")
    assert refusals == [set(HOSTS)]
    assert "failed with status 1" in _shown(lab_status(load_inventory(lab), connect))


def test_status_and_logs_after_a_campaign(lab, recorder):
    """How it ended, and the end of any of its files; a host without a campaign, or without a server, says so."""
    hosts = {host.name: host for host in load_inventory(lab).hosts}
    events_of = Tail(directory="", name="events.jsonl", lines=2, follow=True)
    with pytest.raises(HostError, match=r"^pi-a: logs: no campaign has run on this host"):
        show_log(hosts["pi-a"], connect, events_of, print)
    _up(lab, recorder(), "playbook: p\napp: flclient.apps.payload\nrounds: 2\nprobe: off\nsample_every_s: 0\n")
    assert _shown(lab_status(load_inventory(lab), connect)).count("ended well") == len(HOSTS)
    lines = []
    show_log(hosts["pi-a"], connect, events_of, lines.append)
    assert [json.loads(line)["name"] for line in lines] == ["reply-sent", "trial-ended"]
    closed = msgspec.structs.replace(load_inventory(lab), server=_moved(hosts["server"]))
    report = lab_status(closed, connect)
    assert not report.ok
    assert "refused" in _shown(report)


def _shown(report):
    console = Console(width=200, file=io.StringIO())
    console.print(report.table)
    return console.file.getvalue()


def _moved(host):
    return msgspec.structs.replace(host, ssh=msgspec.structs.replace(host.ssh, port=_free_port()))
