"""Environments made for real, on a host that OpenSSH serves."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from deploy.app import embedded
from deploy.environment import prepare_python
from deploy.errors import HostError
from deploy.facts import findings
from deploy.remote.fanout import fan_out

NO_NETWORK = "HTTPS_PROXY=http://127.0.0.1:1 HTTP_PROXY=http://127.0.0.1:1 UV_HTTP_RETRIES=0"
PAYLOAD = embedded("flclient.apps.payload")


def prepared(station, kit, facts=None):
    return prepare_python(station.host, station.remote, facts or station.look(), kit, station.said.append)


def environments(station) -> list[str]:
    return sorted(path.name for path in Path(station.host.workdir, "env").iterdir())


def test_uv_makes_what_the_experiment_needs(station, kit):
    """From a bare Python to one that imports flwr and grpc, all of it below the work directory."""
    one = station()
    before = one.look()
    after = prepared(one, kit, before)
    assert re.fullmatch(rf"{one.host.workdir}/env/[0-9a-f]{{16}}/bin/python", after.python)
    assert findings(after, PAYLOAD) == []
    code = "import flwr, grpc, msgspec, numpy, psutil, sys; print(flwr.__version__, sys.version.split()[0])"
    told = subprocess.check_output([after.python, "-I", "-c", code], text=True)
    assert told.split() == [after.packages["flwr"], after.python_version]
    assert {path.name for path in Path(one.host.workdir).iterdir()} == {"store", "env", "cache"}
    seen = msgspec.structs.replace(after, packages={}, wall_ns=0, disk_free_mb=0)
    looked = one.look()
    assert looked.envs == after.envs
    assert msgspec.structs.replace(
        before, python="", packages={}, wall_ns=0, disk_free_mb=0
    ) == msgspec.structs.replace(seen, python="", envs=())


def test_the_packages_are_those_that_are_there(station, small):
    """What the lock says is what the environment has: the manifest is right without asking again."""
    one = station()
    after = prepared(one, small)
    code = "from importlib.metadata import version as v; print(v('msgspec'), v('psutil'))"
    told = subprocess.check_output([after.python, "-c", code], text=True).split()
    assert after.packages["msgspec"] == told[0]
    assert {name for name, version in after.packages.items() if version} == {"msgspec"}


def test_what_is_there_costs_nothing(station, small):
    """Not a byte travels when the look has already told that the environment is complete."""
    one = station()
    after = prepared(one, small)
    facts = one.look()
    one.remote.verbs.clear()
    assert prepared(one, small, facts).python == after.python
    assert one.remote.verbs == []


def test_wheelhouse_needs_no_network_on_the_host(station, kit):
    """The host can reach no index: all that it installs was pushed."""
    one = station(environment=NO_NETWORK, manager="wheelhouse")
    after = prepared(one, kit)
    assert findings(after, PAYLOAD) == []
    subprocess.run([after.python, "-I", "-c", "import flwr, grpc, psutil"], check=True)
    assert not list(Path(one.host.workdir, "store").rglob("*.part*"))


def test_wheels_are_pushed_once(station, small):
    """Two environments share their wheels."""
    one = station(environment=NO_NETWORK, manager="wheelhouse")
    prepared(one, small)
    more = type(small)(PAYLOAD, root=small._cache.root)
    more.requirements = (*small.requirements, "h11")
    one.remote.verbs.clear()
    prepared(one, more)
    assert one.remote.verbs.count("put") == 1
    assert len(environments(one)) == 2


def test_a_host_without_internet_is_told_of_the_wheelhouse(station, small):
    """The error says which step failed, what uv said, and what would help; nothing is left that looks complete."""
    one = station(environment=NO_NETWORK)
    with pytest.raises(HostError, match=r"^pi-a: python: uv could not install the packages \(for a host without inter"):
        prepared(one, small)
    assert environments(one) == []


def test_a_host_without_python3(station, small, tmp_path):
    """It needs none: uv finds, or would bring, the version that is asked for; what it is, is seen there."""
    tools, version = tmp_path / "tools", f"3.{sys.version_info.minor}"
    tools.mkdir()
    for tool in (path for path in Path("/usr/bin").iterdir() if "python" not in path.name):
        (tools / tool.name).symlink_to(tool)
    (tools / f"python{version}").symlink_to(Path(sys.executable).resolve())
    facts = msgspec.structs.replace(station().look(), python="", python_version="", python_bits=0, packages={})
    one = station(force=f'PATH={tools} exec sh -c "$SSH_ORIGINAL_COMMAND"', path="python3", version=version)
    with pytest.raises(HostError):
        one.remote.read(["python3", "-c", ""], step="look")
    after = prepared(one, small, facts)
    told = subprocess.check_output([after.python, "-c", "import platform; print(platform.python_version())"], text=True)
    assert after.python_version == told.strip()
    assert after.python_bits == 64
    one.remote.verbs.clear()
    assert prepared(one, small, msgspec.structs.replace(facts, envs=after.envs)) == after
    assert one.remote.verbs == ["read"]


def test_a_python_that_cannot_be_brought(station, small):
    """Bringing one needs internet on the host: the error says so."""
    one = station(environment=NO_NETWORK, path="python3", version="3.14")
    with pytest.raises(HostError, match=r"^pi-a: python: uv could neither find Python 3.14 on the host nor bring it"):
        prepared(one, small)


def test_two_controllers_at_once(station, small, tmp_path):
    """Both get the environment, there is one, and nothing else is left."""
    stations = [station(workdir=tmp_path / "shared") for _ in range(3)]
    facts = stations[0].look()
    all_at_once = {str(number): one for number, one in enumerate(stations)}
    made = list(fan_out(all_at_once, lambda one: prepared(one, small, facts)).values())
    assert len({found.python for found in made}) == 1
    assert environments(stations[0]) == list(made[0].envs)
    subprocess.run([made[0].python, "-c", "import msgspec"], check=True)


def test_a_half_made_environment_is_made_again(station, small):
    """What lacks the mark, or was left by a killed run, is cleared; what belongs to a living process is not."""
    one = station()
    after = prepared(one, small)
    place = Path(after.python).parent.parent
    (place / ".complete").unlink()
    (place / "bin" / "python").unlink()
    node, envs = os.uname().nodename, place.parent
    dead, living, other = (
        envs / f".{place.name}.{end}" for end in (f"{node}.999999999", f"{node}.{os.getpid()}", "x.1")
    )
    for left in (dead, living, other):
        left.mkdir()
    assert one.look().envs == ()
    assert prepared(one, small).python == after.python
    subprocess.run([after.python, "-c", "import msgspec"], check=True)
    assert environments(one) == sorted([living.name, other.name, place.name])


@pytest.mark.parametrize("case", [(-1, "MB are free: make room"), (1, "No space left on device")])
def test_an_environment_needs_a_disk(station, small, here, tmp_path, case):
    """A full disk is an error of one host and one step, and leaves nothing that looks complete."""
    megabytes, message = case
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    mount = tmp_path / "mount"
    mount.mkdir()
    size = small.uv(here).size + megabytes * 10**6
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", mount], check=True)
    try:
        one = station(workdir=mount / "work")
        with pytest.raises(HostError, match=message):
            prepared(one, small)
        assert one.look().envs == ()
    finally:
        subprocess.run(["umount", mount], check=True)
