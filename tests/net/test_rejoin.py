"""Whole campaigns that lose a client: it is started again, joins again, and every round is there."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import pytest

from deploy.attach import Place, attach
from deploy.campaign import Request, up
from deploy.manifest import Manifest
from deploy.playbook import load_playbook
from deploy.providers.netns.lab import netns_lab, power_off, power_on
from deploy.remote import transport
from deploy.remote.ssh import connect
from deploy.takedown import take_down
from deploy.view import Silent
from flcommon import events
from flcommon.eventlog import processes, read_log
from flcommon.process import Identity

if TYPE_CHECKING:
    from pathlib import Path

ROUNDS = 40
PLAYBOOK = f"""
playbook: slow
app: flclient.apps.payload
probe: off
run_config: {{payload-bytes: 1000}}
rounds: {ROUNDS}
warmup_rounds: 0
pull_every_s: 0.2
delay: {{at: before-upload, probability: 1, seconds: 0.05}}
"""


@dataclass
class Recorder(Silent):
    """A view that remembers, and does something once, at the end of the third round."""

    action: object = None
    directory: Path | None = None
    notes: list[str] = field(default_factory=list)

    def run(self, directory, _plan):
        self.directory = directory

    def note(self, text):
        self.notes.append(text)

    def event(self, _host, event):
        if self.action is not None and isinstance(event, events.RoundEnded) and event.round == 3:
            action, self.action = self.action, None
            action()


@dataclass(frozen=True)
class Lab:
    """A lab of two clients, and what a campaign on it needs."""

    inventory: object
    place: Path

    def request(self, **wishes):
        file = self.place / "playbook.yaml"
        file.write_text(PLAYBOOK)
        entered = contextlib.nullcontext(self.inventory)
        return Request(entered, load_playbook(file), self.place / "runs", connect, **wishes)

    @property
    def here(self):
        return Place(contextlib.nullcontext(self.inventory), self.place / "runs", connect)

    def kill(self, name):
        """End a client's process as the kernel does when memory is short."""
        host = next(host for host in self.inventory.clients if host.name == name)
        with connect(host) as remote:
            told = remote.read(["sh", "-c", f"cat /root/.fieldlab/campaigns/*/{name}/process.json"], step="look")
            remote.run(["kill", "-9", str(msgspec.json.decode(told, type=Identity).pid)], step="kill")


@pytest.fixture
def two(make_lab, tmp_path, clean, monkeypatch):
    quick = (("TCP_NODELAY", 1), ("TCP_KEEPIDLE", 1), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 3))
    monkeypatch.setattr(transport, "_TCP_OPTIONS", quick)
    with netns_lab(make_lab(2)) as inventory:
        yield Lab(inventory, tmp_path)
        assert set(take_down(inventory, connect).results.values()) == {"nothing was running"}
    assert clean() == set()


def check(run):
    """See that nothing is missing: all rounds, both processes of client-2, and the server's word of its return."""
    manifest = msgspec.json.decode((run / "manifest.json").read_bytes(), type=Manifest)
    assert (manifest.status, manifest.error, manifest.lost) == ("complete", None, {})
    server = [event for _, event in read_log(run / "raw" / "server" / "events.jsonl").events]
    ended = [event.round for event in server if isinstance(event, events.RoundEnded) and event.trial == 0]
    assert [number for number in ended if number] == list(range(1, ROUNDS + 1))
    assert [event.restarted for event in server if isinstance(event, events.ClientBack)] == [True]
    reading = read_log(run / "raw" / "client-2" / "events.jsonl")
    assert reading.problems == []
    _, second = processes(reading.events)
    assert any(isinstance(event, events.ReplySent) for _, event in second)
    answered = {
        event.round
        for event in server
        if isinstance(event, events.ReplyReceived) and event.client == "client-2" and event.error is None
    }
    assert answered >= set(range(1, ROUNDS + 1))
    assert (run / "raw" / "client-2" / "exit.json").read_bytes() == b'{"status":0}'


def test_a_client_that_is_killed_is_started_again_and_takes_part(two):
    """SIGKILL in a round, as for want of memory: the controller starts it again, and no round is missing."""
    view = Recorder(action=lambda: two.kill("client-2"))
    up(two.request(), view)
    assert [note.startswith("client-2: ") and "SIGKILL" in note for note in view.notes] == [True]
    check(view.directory)


def test_a_host_that_reboots_takes_part_again(two):
    """A power failure in a round, and the boot: its client is started again, and all of its log is kept."""

    def reboot():
        power_off(two.inventory, "client-2")
        power_on(two.inventory, "client-2")

    view = Recorder(action=reboot)
    up(two.request(), view)
    assert sum("starting it again" in note for note in view.notes) == 1
    check(view.directory)


def test_attach_starts_a_client_that_is_down(two):
    """It died while nobody watched."""
    up(two.request(detach=True), Silent())
    two.kill("client-2")
    view = Recorder()
    attach(two.here, view)
    check(view.directory)


def test_attach_looks_for_a_host_that_is_off(two):
    """A client without power when the controller comes: it is looked for, and started again once it is there."""
    up(two.request(detach=True), Silent())
    power_off(two.inventory, "client-2")
    view, on = Recorder(), threading.Event()

    def note(text):
        Recorder.note(view, text)
        if "trying again" in text and not on.is_set():
            on.set()
            power_on(two.inventory, "client-2")

    view.note = note
    attach(two.here, view)
    check(view.directory)
