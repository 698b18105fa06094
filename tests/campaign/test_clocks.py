"""Clocks and leases of whole campaigns: compared before, between and after trials, and given up with the controller."""

from __future__ import annotations

import contextlib
import getpass
import subprocess
import sys
import threading
import time

import psutil
import pytest
from msgspec.json import decode

from deploy.attach import Place, end
from deploy.campaign import Request, up
from deploy.clockline import CLOCKS_FILE, ClockLine
from deploy.inventory import load_inventory
from deploy.playbook import load_playbook
from deploy.remote.ssh import connect
from deploy.view import Silent
from flcommon import events
from flcommon.eventlog import read_log
from flcommon.lease import CONTROL_FILE, is_held

HOSTS = ("server", "client-1")
TRIALS = """
playbook: small
app: flclient.apps.payload
run_config: {payload-bytes: 1000}
rounds: 1
order: listed
delay: {at: before-upload, seconds: 1}
sweep: {delay.probability: [0, 1]}
seed: 7
"""
LONG = "playbook: long\napp: flclient.apps.payload\nrun_config: {payload-bytes: 1000}\nrounds: 1000000\n"


def exchanges(directory):
    return [decode(line, type=ClockLine) for line in (directory / CLOCKS_FILE).read_bytes().splitlines()]


def test_clocks_are_compared_before_between_and_after_trials(bench, recorder):
    """With every host, by whole bursts; controller and hosts are one machine here, so their stamps can be compared."""
    view, threads = recorder(), threading.active_count()
    bench.up(view, TRIALS)
    log = read_log(view.directory / "raw" / "server" / "events.jsonl").events
    first = next(stamp.mono_ns for stamp, event in log if isinstance(event, events.TrialOpened) and event.trial == 0)
    ended = [stamp.mono_ns for stamp, event in log if isinstance(event, events.TrialEnded) and event.trial >= 0]
    assert len(ended) == 2
    lines = exchanges(view.directory)
    for host in bench.manifest(view).hosts:
        own = [line for line in lines if line.host == host]
        assert all(
            line.sent_mono_ns <= line.received_mono_ns <= line.answered_mono_ns <= line.back_mono_ns for line in own
        )
        before = [line for line in own if line.back_mono_ns < first]
        between = [line for line in own if ended[0] < line.sent_mono_ns < ended[1]]
        after = [line for line in own if line.sent_mono_ns > ended[1]]
        assert before
        assert len(between) >= 10
        assert len(after) >= 20
    assert view.notes == []
    assert threading.active_count() == threads


@pytest.fixture
def lab(openssh, tmp_path):
    """Give the inventory file of a lab of two OpenSSH servers, whose processes outlive a controller until the end."""
    ports = {name: openssh.start() for name in HOSTS}
    for name in HOSTS:
        (tmp_path / name).mkdir()
    (tmp_path / "long.yaml").write_text(LONG)
    file = tmp_path / "lab.yaml"
    file.write_text(f"""
lab: openssh
ssh: {{user: {getpass.getuser()}, identity_file: {openssh.identity_file}, known_hosts: {openssh.known_hosts}}}
python: {{path: {sys.executable}}}
server:
  host: 127.0.0.1
  address: 127.0.0.1:{openssh.free_port()}
  ssh: {{port: {ports["server"]}}}
  workdir: {tmp_path}/server
clients:
  client-1: {{host: 127.0.0.1, ssh: {{port: {ports["client-1"]}}}, workdir: {tmp_path}/client-1}}
""")
    yield file
    end(Place(contextlib.nullcontext(load_inventory(file)), tmp_path / "runs", connect), Silent())


def controls(place):
    """Return the files by which the hosts know of a controller."""
    found = {name: list(place.glob(f"{name}/campaigns/*/{name}/{CONTROL_FILE}")) for name in HOSTS}
    return [file for files in found.values() for file in files]


def conversing(place):
    """Return the hosts' ends of conversations."""
    found = [process for process in psutil.process_iter(["cmdline"]) if "converse" in (process.info["cmdline"] or ())]
    return [process for process in found if str(place) in " ".join(process.info["cmdline"])]


def test_a_campaign_that_is_left_needs_no_controller(lab, recorder):
    """`up --detach`: every host is told before it returns, no conversation stays, and exchanges were written down."""
    view, place = recorder(), lab.parent
    inventory = contextlib.nullcontext(load_inventory(lab))
    up(Request(inventory, load_playbook(place / "long.yaml"), place / "runs", connect, detach=True), view)
    assert [file.read_text() for file in controls(place)] == ["left"] * len(HOSTS)
    assert psutil.wait_procs(conversing(place), timeout=10)[1] == []
    assert {line.host for line in exchanges(view.directory)} == set(HOSTS)
    assert view.notes == []


def test_a_killed_controllers_lease_runs_out(lab):
    """SIGKILL lets nobody say a last word: no process is left that would renew a lease, and the campaign runs on."""
    place = lab.parent
    argv = [sys.executable, "-c", "from deploy.cli import main; main()", "up", str(lab), "-p", str(place / "long.yaml")]
    with subprocess.Popen(argv, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as controller:
        assert any("running" in line for line in controller.stdout)
        talks = conversing(place)
        assert len(talks) >= len(HOSTS)
        assert all(is_held(file) for file in controls(place))
        controller.kill()
    assert psutil.wait_procs(talks, timeout=20)[1] == []
    words = [file.read_text() for file in controls(place)]
    assert len(words) == len(HOSTS)
    assert all(0 <= int(word) < time.monotonic_ns() for word in words)
    assert not any(is_held(file, lease_s=0.0) for file in controls(place))
    assert conversing(place) == []
    assert [file.read_text() for file in controls(place)] == words
