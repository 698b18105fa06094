"""Nothing of a lab stays, whoever is killed at whatever moment."""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import subprocess
import sys

import msgspec
import psutil
import pytest

from deploy.providers.netns import lab as netns
from deploy.providers.netns import state as netns_state
from deploy.providers.netns.lab import lab_down, netns_lab
from deploy.remote import ssh

# Its lab may be killed at any moment: ssh gives up soon.
CONTROLLER = """
import json, signal, subprocess, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the parent's parent ignores
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from pathlib import Path
from deploy.inventory import NetnsLab
from deploy.providers.netns.lab import netns_lab
lab = NetnsLab(file=Path("x"), lab=sys.argv[1], playbook=None, clients=2, cpu={"client-1": 0.5})
with netns_lab(lab) as inventory:
    key, known = inventory.server.ssh.identity_file, inventory.server.ssh.known_hosts
    options = ["ConnectTimeout=1", "ServerAliveInterval=1", "ServerAliveCountMax=1", f"UserKnownHostsFile={known}"]
    words = [word for option in options for word in ("-o", option)]
    argv = ["ssh", "-q", "-F", "/dev/null", "-i", key, *words, f"root@{inventory.server.host}"]
    subprocess.run([*argv, "setsid sleep 604 >/dev/null 2>&1 </dev/null &"])
    print(json.dumps(inventory.server.host), flush=True)
    sys.stdin.read()
"""
UP_S = 0.6
"""About how long the controller takes until its lab is up: kills come before and after."""


@contextlib.contextmanager
def controller(name):
    """A process of its own that holds a lab."""
    argv = [sys.executable, "-c", CONTROLLER, name]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def keeper_of(process):
    return psutil.Process(process.pid).children()


def supervisor_of(process):
    with contextlib.suppress(psutil.NoSuchProcess):  # a keeper is not there yet, or no longer
        return [child for keeper in keeper_of(process) for child in keeper.children()]
    return []


def kill(victims):
    """Kill one after the other: those who come later may have gone with the first."""
    for one in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()


VICTIMS = {
    "controller": lambda process: [psutil.Process(process.pid)],
    "supervisor": supervisor_of,
    "keeper": keeper_of,
    "controller and keeper": lambda process: [psutil.Process(process.pid), *keeper_of(process)],
    "all three": lambda process: [psutil.Process(process.pid), *keeper_of(process), *supervisor_of(process)],
}
SEEDS = range(3)
NAMES = ("directory", "cgroup")
"""What is left if the keeper is killed: the kernel takes all else."""


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("victim", VICTIMS)
def test_nothing_stays_after_a_kill_at_a_random_moment(make_lab, clean, victim, seed):
    """While the lab starts, or when it runs: processes, mounts, interface, control groups and directory go.

    If the keeper, who clears up, is among the killed, the kernel takes all but names; the next start takes those.
    """
    moment = random.Random(f"{victim}{seed}").uniform(0, 1.5 * UP_S)  # noqa: S311 - moments, no secrets
    with controller(make_lab().lab) as process:
        select.select([process.stdout], [], [], moment)  # sooner if the lab is up
        kill(VICTIMS[victim](process))
        process.stdin.close()
        process.wait(20)
    if victim in ("controller and keeper", "all three"):
        assert clean(*NAMES) == set()
        lab_down("nobody")
    assert clean() == set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_nothing_stays_after_a_signal(make_lab, clean, number):
    """Ctrl-C in a terminal reaches the whole foreground group: the keeper must not be in it."""
    with controller(make_lab().lab) as process:
        assert json.loads(process.stdout.readline())
        os.killpg(process.pid, number)
        process.wait(20)
    assert clean() == set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_keeper_ends_the_lab(make_lab, clean, number):
    """As at a shutdown; SIGINT, which a terminal sends to all, is not meant for it."""
    with controller(make_lab().lab) as process:
        assert json.loads(process.stdout.readline())
        (keeper,) = keeper_of(process)
        keeper.send_signal(signal.SIGINT)
        assert all(one.is_running() for one in supervisor_of(process))
        keeper.send_signal(number)
        assert clean() == set()


def test_the_next_start_clears_what_is_left(make_lab, clean):
    """Also without `deploy lab down`: directories and control groups of labs whose lock is free."""
    name = make_lab().lab
    with controller(name) as process:
        assert json.loads(process.stdout.readline())
        kill(VICTIMS["all three"](process))
        process.wait(20)
        assert clean(*NAMES) == set()
        assert [state.is_alive() for state in netns_state.states() if state.plan.request.lab == name] == [False]
        with netns_lab(make_lab()) as lab, ssh.connect(lab.server) as remote:
            assert remote.read(["hostname"], step="look") == "server\n"
    assert clean() == set()


def test_a_lab_that_was_killed_before_it_had_a_plan_is_cleared(clean):
    """Its directory is all that there is of it."""
    with netns_state.registry():
        (netns_state.BASE / "00c0ffee").mkdir()
    lab_down("nobody")
    assert not (netns_state.BASE / "00c0ffee").exists()
    assert clean() == set()


def test_a_living_lab_is_not_a_leftover(lab, make_lab):
    """Others start, end and clear while it goes on."""
    with netns_lab(make_lab()):
        lab_down("nobody")
    with ssh.connect(lab.clients[0]) as remote:
        assert remote.read(["echo", "alive"], step="look") == "alive\n"


def test_a_failed_start_leaves_nothing(make_lab, clean, monkeypatch):
    """What the hosts could not do is said in a sentence, and everything is taken back."""
    monkeypatch.setattr(netns, "check_machine", broken(netns.check_machine()))
    with pytest.raises(netns.DeployError, match="server: sshd did not start"), netns_lab(make_lab()):
        pytest.fail("was entered")
    assert clean() == set()


def broken(programs):
    return lambda: msgspec.structs.replace(programs, sshd="/bin/false")


def test_a_start_that_takes_too_long(make_lab, clean, monkeypatch):
    """It is given up, and nothing stays."""
    monkeypatch.setattr(netns, "_START_S", 0.0)
    with pytest.raises(netns.DeployError, match="not ready within 0 s"), netns_lab(make_lab()):
        pytest.fail("was entered")
    assert clean() == set()
