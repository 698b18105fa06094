"""Taking over a campaign on fake hosts: who is watched, who is started again, and what is left alone."""

from __future__ import annotations

import pytest

from deploy import follower
from deploy.attach import attach
from deploy.errors import CampaignError, HostError
from deploy.remote.late import LateRemote
from flcommon import events


@pytest.fixture
def left(lab, script, digest):
    """Give a lab on which a campaign was left running."""
    for station in lab.stations.values():
        station.lasting = True
    lab.tell("server", "run", script.said(*script.opening[:2]))
    lab.up(detach=True)
    name = lab.manifest.campaign
    for host, station in lab.stations.items():
        station.closed = station.lasting = False
        station.over.clear()
        running = (f"/home/pi/.fieldlab/campaigns/{name}/{host}",)
        lab.tell(host, "look", script.facts(code=(digest,), running=running))
    lab.tell("server", "manifest", (lab.view.directory / "manifest.json").read_bytes())
    lab.tell("server", "watch", script.said(*script.opening) + script.exited(0))
    for host in ("client-1", "client-2"):
        lab.tell(host, "watch", script.said(READY) + script.exited(0))
    lab.timeline.clear()
    return lab


READY = events.Ready(after_s=1.0, app_import_s=0.5)


def test_what_was_left_running_is_watched_and_recorded(left):
    """All hosts are watched, none is started, and the logs are pulled."""
    attach(left.place, left.view)
    assert left.hosts_that("watch") == left.hosts_that("pull") == {"server", "client-1", "client-2"}
    assert left.hosts_that("again") | left.hosts_that("run") == set()
    assert left.manifest.status == "complete"


def test_a_campaign_that_is_over_starts_nobody(left, script, digest):
    """Its server has ended: a client that died in it is history, and is noted as missing nowhere else."""
    left.tell("server", "look", script.facts(code=(digest,)))
    left.tell("client-1", "watch", script.exited(-9))
    attach(left.place, left.view)
    assert left.hosts_that("again") == set()
    assert left.manifest.status == "complete"


def test_a_client_out_of_reach_is_looked_for_and_watched(left, script, monkeypatch):
    """Its host is off when the controller comes: it takes part again as soon as it is in reach."""
    monkeypatch.setattr(follower, "_FIRST_WAIT_S", 0.01)
    left.unreachable["client-1"] = HostError("client-1", "connect", "no answer")
    left.stations["server"].lasting = True  # its process runs until the test ends it
    left.tell("server", "watch", script.said(*script.opening))

    def note(text):
        left.view.notes.append(text)
        if "trying again" in text:
            left.unreachable.clear()

    def event(host, event):
        left.view.events.append((host, event))
        if host == "client-1":
            left.stations["server"].over.set()

    left.view.note, left.view.event = note, event
    with pytest.raises(CampaignError, match="server: run: the process was killed by SIGTERM"):
        attach(left.place, left.view)
    assert left.view.notes[1] == "client-1: connect: no answer; trying again"
    assert "client-1: watch: in reach again" in left.view.notes[2]
    assert ("client-1", READY) in left.view.events


def test_a_late_host_connects_once_it_can(lab):
    """Each verb tries until one succeeds; then there is one connection, which is closed."""
    (client, _) = lab.inventory.clients
    tries = []

    def connect():
        tries.append(1)
        if len(tries) < 3:
            raise HostError("client-1", "connect", "no answer")
        return lab.connect(client)

    late = LateRemote("client-1", connect)
    for _ in range(2):
        with pytest.raises(HostError, match=r"^client-1: connect: no answer$"):
            late.read(["true"], step="look")
    assert late.read(["python", "look"], step="look") == late.run(["python", "look"], step="look")
    assert len(tries) == 3
    late.close()
    assert lab.stations["client-1"].closed
    with pytest.raises(HostError, match=r"^client-1: look: the connection was closed here$"):
        late.read(["true"], step="look")
