"""Campaigns whose controller, connections or hosts go away: on real hosts, with OpenSSH's own servers."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import pytest

from deploy.attach import Place, attach, end
from deploy.campaign import Request, up
from deploy.errors import DeployError, HostError, LabError
from deploy.inspection import lab_status
from deploy.manifest import Manifest
from deploy.playbook import load_playbook
from deploy.providers.netns.lab import netns_lab, power_off
from deploy.remote.ssh import connect
from deploy.takedown import take_down
from deploy.view import Silent
from flcommon import events
from flcommon.eventlog import read_log

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
ENDLESS = PLAYBOOK.replace(f"rounds: {ROUNDS}", "rounds: 100000")
DEPLOY = [sys.executable, "-c", "from deploy.cli import main; main()"]


@dataclass
class Recorder(Silent):
    """A view that remembers, and does something once when an event of a kind comes."""

    kind: type = events.RoundEnded
    action: object = None
    directory: Path | None = None
    notes: list[str] = field(default_factory=list)
    events: list[tuple[str, object]] = field(default_factory=list)

    def run(self, directory, _plan):
        self.directory = directory

    def note(self, text):
        self.notes.append(text)

    def event(self, host, event):
        self.events.append((host, event))
        if self.action is not None and isinstance(event, self.kind):
            action, self.action = self.action, None
            action()


@dataclass(frozen=True)
class Lab:
    """A lab of two clients, one more controller's directory for runs, and what a campaign on it needs."""

    inventory: object
    place: Path

    def request(self, playbook=PLAYBOOK, **wishes):
        file = self.place / "playbook.yaml"
        file.write_text(playbook)
        return Request(self._entered, load_playbook(file), self.place / "runs", connect, **wishes)

    def elsewhere(self, name="elsewhere"):
        """The same lab, seen by a controller that has started nothing."""
        return Place(self._entered, self.place / name, connect)

    @property
    def here(self):
        return self.elsewhere("runs")

    @property
    def file(self):
        """The lab as a person would write it down: hosts with addresses."""
        clients = "".join(f"  {one.name}: {_entry(one)}\n" for one in self.inventory.clients)
        path = self.place / "lab.yaml"
        path.write_text(
            f"lab: written\nserver: {_entry(self.inventory.server)}\n"
            f"python: {{path: {sys.executable}}}\nclients:\n{clients}"
        )
        return path

    @property
    def _entered(self):
        return contextlib.nullcontext(self.inventory)


def _entry(host):
    ssh = host.ssh
    return (
        f"{{host: {host.host}, ssh: {{user: {ssh.user}, identity_file: {ssh.identity_file},"
        f" known_hosts: {ssh.known_hosts}, connect_timeout_s: 2}}}}"
    )


@pytest.fixture
def two(make_lab, tmp_path, clean):
    with netns_lab(make_lab(2)) as inventory:
        yield Lab(inventory, tmp_path)
    assert clean() == set()


def manifest(run):
    return msgspec.json.decode((run / "manifest.json").read_bytes(), type=Manifest)


def told(run, host="server"):
    reading = read_log(run / "raw" / host / "events.jsonl")
    assert reading.problems == []
    return [event for _, event in reading.events]


def only(runs):
    (run,) = runs.glob("*/*")
    return run


def test_a_campaign_is_left_running_and_recorded_from_elsewhere(two):
    """`up --detach` returns while it runs; another controller, which has never seen it, records all of it."""
    up(two.request(detach=True), Silent())
    assert manifest(only(two.place / "runs")).status == "running"
    view = Recorder()
    attach(two.elsewhere(), view)
    run = view.directory
    assert run.is_relative_to(two.place / "elsewhere")
    assert manifest(run).status == "complete"
    assert manifest(run).campaign == manifest(only(two.place / "runs")).campaign
    assert sum(isinstance(event, events.RoundEnded) for event in told(run)) == ROUNDS
    with pytest.raises(DeployError, match="nothing runs on the lab; its last campaign is recorded in"):
        attach(two.elsewhere(), Silent())
    attach(two.here, Silent())  # the first controller catches up, from the hosts' files alone
    assert manifest(only(two.place / "runs")).status == "complete"


def test_logs_are_pulled_between_rounds_and_cost_no_rounds_time(two):
    """What is on this machine grows while it runs; the pauses are in the log, and rounds still add up to the trial."""
    sizes = []
    view = Recorder()

    def look():
        log = view.directory / "raw" / "client-1" / "events.jsonl"
        sizes.append(log.stat().st_size if log.exists() else 0)

    view.event = lambda host, event: (Recorder.event(view, host, event), look())  # type: ignore[method-assign]
    up(two.request(), view)
    story = told(view.directory)
    pauses = [event for event in story if isinstance(event, events.Resumed)]
    assert {pause.by for pause in pauses} == {"controller"}
    assert len({size for size in sizes if size}) >= 2
    rounds_s = sum(event.duration_s for event in story if isinstance(event, events.RoundEnded))
    (trial,) = (event for event in story if isinstance(event, events.TrialEnded))
    assert abs(rounds_s - trial.duration_s) < 1e-6
    log = read_log(view.directory / "raw" / "server" / "events.jsonl").events
    messages = [
        (stamp.mono_ns, one.round) for stamp, one in log if isinstance(one, events.MessageSent | events.ReplyReceived)
    ]
    places = [number for _, number in sorted(messages)]
    assert places == sorted(places)


def test_an_attached_controller_that_is_interrupted_leaves_all_as_it_is(two):
    """Ctrl-C in `attach` ends the watching; `stop` ends the campaign, and what was measured is kept."""
    up(two.request(ENDLESS, detach=True), Silent())
    view = Recorder(action=lambda: signal.raise_signal(signal.SIGINT))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        attach(two.here, view)
    assert manifest(view.directory).status == "running"
    assert lab_status(two.inventory, connect).ok
    stopped = Recorder()
    end(two.here, stopped)
    assert stopped.directory == view.directory
    assert manifest(stopped.directory).status == "interrupted"
    assert any(isinstance(event, events.RoundEnded) for event in told(stopped.directory))
    assert set(take_down(two.inventory, connect).results.values()) == {"nothing was running"}
    with pytest.raises(HostError, match="no campaign runs there"):
        end(two.here, Silent())


def test_a_controller_that_is_killed_is_not_missed(two):
    """SIGKILL for the whole `deploy up`: the campaign runs to its end, and `attach` of a new process records it."""
    (two.place / "playbook.yaml").write_text(PLAYBOOK)
    argv = [*DEPLOY, "up", str(two.file), "-p", "playbook.yaml", "--runs", "cli"]
    with subprocess.Popen(argv, cwd=two.place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as killed:
        for line in killed.stdout:
            if line.rstrip().endswith("running"):
                break
        killed.kill()
    argv[argv.index("up")] = "attach"
    argv[argv.index("-p") : argv.index("--runs")] = []
    done = subprocess.run(argv, cwd=two.place, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert manifest(only(two.place / "cli")).status == "complete"
    assert "1 of 1 trials" in done.stdout


def test_of_two_controllers_one_comes_first(two):
    """Both start at once on an idle lab: one campaign runs to its end, the other is refused, nothing stays."""
    refused, gate = [], threading.Barrier(2)

    def controller(number):
        try:
            gate.wait(10)
            up(Request(**{**vars(two.request()), "runs": two.place / f"c{number}"}), Silent())
        except DeployError as error:
            refused.append(error)

    threads = [threading.Thread(target=controller, args=(number,)) for number in range(2)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(120)
    assert ["a campaign runs there already" in str(error) for error in refused] == [True]
    runs = [manifest(path).status for number in range(2) for path in (two.place / f"c{number}").glob("*/*")]
    assert sorted(runs) in (["complete"], ["complete", "failed"])
    assert set(take_down(two.inventory, connect).results.values()) == {"nothing was running"}


def test_replace_ends_the_campaign_that_runs(two):
    """`up --replace`: the first one is stopped on every host before the second starts."""
    up(two.request(ENDLESS, detach=True), Silent())
    with pytest.raises(LabError, match=r"(?s)a campaign runs there already.*--replace"):
        up(two.request(), Silent())
    view = Recorder()
    up(Request(**{**vars(two.request(replace=True)), "runs": two.place / "second"}), view)
    assert manifest(view.directory).status == "complete"
    assert sum("stopped" in note for note in view.notes) == 3


def test_connections_that_break_are_made_again(two):
    """Every SSH session of a client's host is killed in a round: the campaign goes on, and no event is missing."""
    client = two.inventory.clients[0]

    def cut():
        script = (
            "for each in /proc/[0-9]*; do read -r line < $each/comm || continue; "
            "[ $line = sshd ] && [ $(cut -d' ' -f4 $each/stat) != 1 ] && [ ${each#/proc/} != $PPID ] && "
            "kill -9 ${each#/proc/}; done; exit 0"
        )
        with connect(client) as remote, contextlib.suppress(DeployError):
            remote.run(["sh", "-c", script], step="cut")

    view = Recorder(action=cut)
    up(two.request(), view)
    assert manifest(view.directory).status == "complete"
    assert [note.split(": ")[0] for note in view.notes if "trying again" in note] == [client.name]
    assert told(view.directory, client.name)[-1].__struct_config__.tag == "trial-ended"
    assert (view.directory / "raw" / client.name / "exit.json").read_bytes() == b'{"status":0}'


def test_a_dead_host_is_left_out(two):
    """A client that is off: without --min-clients it is named, with it the others go on, and the manifest says so."""
    (two.place / "playbook.yaml").write_text(PLAYBOOK)
    power_off(two.inventory, "client-1")
    argv = [*DEPLOY, "up", str(two.file), "-p", "playbook.yaml", "--runs", "cli"]
    done = subprocess.run(argv, cwd=two.place, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith("error: client-1: connect: no answer within 2 s")
    argv += ["--min-clients", "1"]
    done = subprocess.run(argv, cwd=two.place, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    found = manifest(only(two.place / "cli"))
    assert (found.status, list(found.hosts), list(found.absent)) == ("complete", ["server", "client-2"], ["client-1"])
    assert "client-1 took no part" in done.stdout


def test_purge_leaves_nothing(two):
    """After `down --purge` a host's home is as it was before the first `up`."""
    up(two.request(), Silent())
    done = take_down(two.inventory, connect, purge=True)
    assert done.results == dict.fromkeys(("server", "client-1", "client-2"), "removed /root/.fieldlab")
    with connect(two.inventory.server) as remote:
        assert remote.read(["find", "/root", "-name", ".fieldlab*"], step="look") == ""
