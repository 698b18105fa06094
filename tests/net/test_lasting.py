"""Labs that outlive the command that starts them: `deploy lab up`, `status`, `down`."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import msgspec
import psutil
import pytest

from deploy.errors import DeployError
from deploy.providers.netns.lab import find_lab, lab_down, lab_up, lasting_labs, netns_lab
from deploy.remote import ssh

DEPLOY = [sys.executable, "-c", "from deploy.cli import main; main()"]


def deploy(*words):
    done = subprocess.run([*DEPLOY, *map(str, words)], capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def file(make_lab, tmp_path, clean):
    """Give an inventory file whose lab, if it was left up, is ended."""
    path = tmp_path / "netns.yaml"
    name = make_lab().lab
    path.write_text(f"lab: {name}\nprovider: netns\nclients: 1\ncpu: {{client-1: 0.5}}\n")
    yield path
    lab_down(name)
    assert clean() == set()


@pytest.fixture
def lab(file):
    """Give the same as an object."""
    from deploy.inventory import load_inventory  # noqa: PLC0415

    return load_inventory(file)


def ask(host, *argv):
    with ssh.connect(host) as remote:
        return remote.run(argv, step="ask").strip()


def test_one_command_starts_it_others_use_it_and_one_ends_it(file, lab, clean):
    """Its hosts and what runs on them are the same for every process, and gone after `down`."""
    assert deploy("lab", "status", file) == (0, "no netns lab is up\n", "")
    assert deploy("status", file)[2].startswith(f"error: {file}: provider: lab {lab.lab} is not up (deploy lab up")
    status, told, error = deploy("lab", "up", file)
    assert (status, error) == (0, "")
    found = find_lab(lab)
    assert f"client-1: ssh -i {found.server.ssh.identity_file} " in told
    pid = ask(found.clients[0], "sh", "-c", "setsid sleep 605 >/dev/null 2>&1 </dev/null & echo $!")
    for _ in range(2):
        with netns_lab(lab) as entered:
            assert entered == found
    assert f"{lab.lab}: server {found.server.host}, client-1 {found.clients[0].host}\n" in deploy("lab", "status")[1]
    status, told, _ = deploy("status", file)
    assert (status, told.count("nothing has run here")) == (0, 2)
    assert deploy("down", file)[:2] == (0, "server: nothing was running\nclient-1: nothing was running\n")
    assert ask(found.clients[0], "ps", "-o", "args=", "-p", pid) == "sleep 605"
    assert deploy("lab", "down", file) == (0, f"{lab.lab}: ended\n", "")
    assert clean() == set()
    assert deploy("lab", "down", file) == (0, "no netns lab was up\n", "")
    assert deploy("down", file)[:2] == (0, f"lab {lab.lab} is not up (deploy lab up {file}): nothing to do\n")


def test_up_is_true_already(lab):
    """A second `up` finds the same hosts; with another inventory it refuses instead of ending what may be in use."""
    first = lab_up(lab)
    assert lab_up(lab) == first
    assert [ready.plan.request.lab for ready in lasting_labs()].count(lab.lab) == 1
    other = msgspec.structs.replace(lab, clients=2)
    with pytest.raises(DeployError, match=f"lab {lab.lab} is up with other hosts; end it with: deploy lab down"):
        lab_up(other)


def test_another_inventory_of_that_name_gets_hosts_of_its_own(lab):
    """The lasting lab is used only if it is what the inventory says."""
    standing = lab_up(lab)
    with netns_lab(msgspec.structs.replace(lab, clients=2)) as other:
        assert len(other.clients) == 2
        assert other.server.host != standing.server.host
    assert ask(standing.server, "hostname") == "server"


@pytest.mark.parametrize("stopped", [False, True])
def test_down_ends_even_a_lab_that_does_not_answer(lab, clean, stopped):
    """It asks nobody: the supervisor's death is the lab's."""
    lab_up(lab)
    if stopped:
        supervisor(lab).suspend()
    assert lab_down(lab.lab) == [lab.lab]
    assert clean() == set()


def test_a_killed_keeper_takes_the_lab_with_it(lab, clean):
    """Then it is not up, and `down` clears the names that it left."""
    lab_up(lab)
    supervisor(lab).parent().kill()
    assert clean("directory", "cgroup") == set()
    assert find_lab(lab) is None
    assert lab_down(lab.lab) == []
    assert clean() == set()


def supervisor(lab):
    """Find it: the one whose parent carries the lab's name, and is no host's first process."""
    marked = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # gone meanwhile
            if process.environ().get("FIELDLAB_NETNS") == lab.lab:
                marked[process.pid] = process
    (keeper,) = (process for process in marked.values() if process.ppid() not in marked)
    (found,) = keeper.children()
    return found


def test_lab_verbs_are_for_netns_labs(tmp_path):
    """Anything else is refused, with the file's name."""
    path = tmp_path / "virtual.yaml"
    path.write_text("lab: v\nprovider: virtual\nclients: 1\n")
    for verb in ("up", "down", "status"):
        status, told, error = deploy("lab", verb, path)
        assert (status, told) == (2, "")
        assert error.startswith(f"error: {path}: `deploy lab` is for `provider: netns`")
