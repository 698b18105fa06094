"""What stands in the way of a run, and what would put it right."""

from __future__ import annotations

import msgspec
import pytest

from deploy.app import embedded
from deploy.errors import CommandFailed, HostError
from deploy.facts import findings, look, look_at_ours
from deploy.inventory import Host, Python, Ssh
from deploy.remote.fake import FakeRemote

CNN, PAYLOAD = embedded("flclient.apps.cifar10"), embedded("flclient.apps.payload")
HOST = Host(name="pi-a", role="client", host="192.0.2.1", ssh=Ssh(), python=Python(path="~/venv"), workdir="~/x")
PACKAGES = {"flwr": "1.41", "grpc": "1", "msgspec": "1", "numpy": "2", "torch": None, "torchvision": None}


def test_a_good_host_is_ready(facts):
    assert findings(facts(), CNN) == []


@pytest.mark.parametrize(
    ("changed", "what", "fix"),
    [
        ({"python_version": "3.10.12"}, "Python 3.10.12 is too old", "3.11 or later"),
        ({"python_version": "3.9.2", "packages": {}}, "Python 3.9.2 is too old", "3.11 or later"),
        ({"packages": PACKAGES}, "/home/pi/venv/bin/python lacks torch, torchvision", "pip install"),
        ({"packages": {}}, "lacks flwr, grpc, msgspec, numpy, torch, torchvision", "/home/pi/venv/bin/python -m pip"),
        ({"python_bits": 32}, "32-bit", "64-bit Raspberry Pi OS"),
        ({"python_bits": 32, "packages": {}}, "32-bit", "64-bit Raspberry Pi OS"),
        ({"machine": "armv7l"}, "no wheels for armv7l", "64-bit Raspberry Pi OS"),
        ({"machine": "i686", "python_bits": 32}, "no wheels for i686", "x86-64 or aarch64"),
        (
            {"python": "", "python_version": "", "packages": {}, "trouble": "there is no Python at ~/v"},
            "~/v",
            "apt-get",
        ),
        ({"trouble": "/v/python does not work: oh (exit status 1)"}, "does not work: oh", "apt-get"),
        ({"writable": False}, "/home/pi/.fieldlab cannot be written", "sudo install -d -o pi /home/pi/.fieldlab"),
        ({"writable": False, "read_only": True}, "mounted read-only", "remount,rw"),
        ({"disk_free_mb": 63}, "only 63 MB", "at least 64 MB at /home/pi/.fieldlab"),
    ],
)
def test_what_stands_in_the_way(facts, changed, what, fix):
    """One finding for one cause, with the fix beside it."""
    (found,) = findings(facts(**changed), CNN)
    assert found.level == "error"
    assert what in found.what
    assert fix in found.fix


@pytest.mark.parametrize(
    ("changed", "manager", "codes"),
    [
        ({"packages": {}}, "existing", ["packages"]),
        ({"packages": {}}, "wheelhouse", []),
        ({"packages": {}}, "uv", []),
        ({"python": "", "python_version": "", "trouble": "there is no Python at python3"}, "wheelhouse", ["python"]),
        ({"python": "", "python_version": "", "trouble": "there is no Python at python3"}, "uv", []),
        ({"python_version": "3.9.2"}, "wheelhouse", ["python"]),
        ({"python_version": "3.9.2"}, "uv", []),
        ({"machine": "armv7l", "packages": {}}, "uv", ["machine"]),
        ({"disk_free_mb": 1}, "uv", ["disk"]),
    ],
)
def test_what_will_be_prepared_is_not_missing(facts, changed, manager, codes):
    """By uv Python and packages are brought, by a wheelhouse packages; by nobody a processor or a disk."""
    assert [one.code for one in findings(facts(**changed), CNN, manager)] == codes


@pytest.mark.parametrize("version", ["3.11.0", "3.11.0rc1", "3.14.0+", "4.0.0"])
def test_new_enough_pythons(facts, version):
    """Release candidates and local builds are no obstacle."""
    assert findings(facts(python_version=version, disk_free_mb=64), CNN) == []


def test_the_payload_app_needs_no_torch(facts):
    """A host without PyTorch can measure the network."""
    assert findings(facts(packages=PACKAGES), PAYLOAD) == []


def test_everything_that_is_wrong_is_said_at_once(facts):
    """Nobody likes to mend a host four times."""
    bad = facts(python_bits=32, writable=False, disk_free_mb=0, python_version="3.7.3")
    assert len(findings(bad, CNN)) == 4


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("", "pi-a: look: an answer that cannot be understood: ''"),
        ("Welcome!\n", "pi-a: look: an answer that cannot be understood: 'Welcome!"),
        ('{"home": "/root"}\n', 'pi-a: look: an answer that cannot be understood: \'{"home"'),
        (
            CommandFailed("pi-a", "look", ["sh"], status=127, output="warning\nsh: not found"),
            r"pi-a: look: sh: not found \(exit status 127\)",
        ),
        (CommandFailed("pi-a", "look", ["sh"], status=1, output=""), r"pi-a: look: it said nothing \(exit status 1\)"),
    ],
)
def test_a_look_that_fails_names_the_host(answer, message):
    """What a host answers is not trusted to be facts."""
    with pytest.raises(HostError, match=f"^{message}"):
        look(HOST, FakeRemote("pi-a", {(): answer}))


def test_processes_need_a_python_to_be_asked_about(facts):
    """Where our code is and Python has gone, `status`, `logs` and `down` say so; a fresh host has no processes."""
    gone = {"python": "", "python_version": "", "trouble": "there is no Python at ~/venv"}
    fresh, used = (msgspec.json.encode(facts(**gone, code=code)).decode() for code in ((), ("0123456789abcdef",)))
    assert look_at_ours(HOST, FakeRemote("pi-a", {(): fresh})).code == ()
    with pytest.raises(HostError, match=r"^pi-a: look: there is no Python at ~/venv \(python.path in the inventory\)$"):
        look_at_ours(HOST, FakeRemote("pi-a", {(): used}))
