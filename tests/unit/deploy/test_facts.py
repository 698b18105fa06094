"""What stands in the way of a run, and what would put it right."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from deploy.app import App, embedded
from deploy.errors import CommandFailed, HostError
from deploy.facts import app_distributions, findings, look, look_at_ours, uses_torch
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


# --- what an app of the user's own needs ------------------------------------------------------------------------------


def needing(*dependencies: str) -> App:
    return msgspec.structs.replace(PAYLOAD, name="my-app", directory=Path("/my-app"), dependencies=dependencies)


def having(facts, **versions: str | None):
    return facts(packages={**facts().packages, **{name.replace("_", "-"): text for name, text in versions.items()}})


@pytest.mark.parametrize(
    ("dependency", "lack", "advice"),
    [
        ("scipy", "scipy", "pip install scipy"),
        ("Scikit_Learn>=1.5,<2", "Scikit_Learn<2,>=1.5 (it has 1.4.2)", "pip install 'Scikit_Learn<2,>=1.5'"),
        ("flwr-datasets[vision]>=0.5", "flwr-datasets>=0.5", "pip install 'flwr-datasets[vision]>=0.5'"),
        ("flwr[simulation]>=1.43", "flwr>=1.43 (it has 1)", "pip install 'flwr[simulation]>=1.43'"),
        ("grpcio>=2", "grpcio>=2 (it has 1)", "pip install 'grpcio>=2'"),
        ("scipy; sys_platform == 'linux'", "scipy", "pip install scipy"),
        ("scipy; platform_machine == 'aarch64' and python_version < '3.12'", "scipy", "pip install scipy"),
        ("pkg @ https://example.org/pkg.whl", "pkg", "pip install 'pkg@ https://example.org/pkg.whl'"),
    ],
)
def test_what_an_app_lacks_is_named_with_its_version(facts, dependency, lack, advice):
    """By the distribution's name and the app's own specifier; what is there in another version is said too."""
    (found,) = findings(having(facts, scikit_learn="1.4.2", scipy=None), needing(dependency))
    assert (found.code, found.what) == ("packages", f"/home/pi/venv/bin/python lacks {lack}")
    assert advice.replace("pkg@ ", "pkg @ ") in found.fix.replace("pkg@ ", "pkg @ ")


@pytest.mark.parametrize(
    "dependency",
    [
        "scikit.learn>=1.4",
        "flwr",
        "numpy>=0.5",
        "torch",
        "scipy; sys_platform == 'darwin'",
        "scipy; python_version < '3.11'",
    ],
)
def test_what_is_there_or_not_needed_on_this_host_is_no_finding(facts, dependency):
    """Names are compared as pip does; a marker is the host's to fulfil, not the controller's."""
    assert findings(having(facts, scikit_learn="1.4.2", scipy=None), needing(dependency)) == []


@pytest.mark.parametrize("manager", ["uv", "wheelhouse"])
def test_what_will_be_installed_is_not_missed(facts, manager):
    """The environment is made from the app's own requirements."""
    assert findings(facts(), needing("scipy"), manager) == []


def test_a_missing_package_of_ours_is_named_once(facts):
    """Both the toolkit and the app ask for it."""
    (found,) = findings(facts(packages={**facts().packages, "numpy": None}), needing("numpy>=1.26", "scipy"))
    assert found.what.endswith("lacks numpy, scipy")


def test_a_look_is_told_what_the_app_needs():
    """By normalised names, once each, and not what is looked for anyway."""
    app = needing("Scikit_Learn>=1", "scikit.learn<2", "flwr[simulation]", "torch>=2", "grpcio", "numpy", "scipy")
    assert app_distributions(app) == ("scikit-learn", "scipy")
    assert app_distributions(CNN) == ()
    assert [uses_torch(one) for one in (app, CNN, PAYLOAD)] == [True, True, False]
