"""Environments as data: kinds of hosts, locks, what is asked of uv and pip, and what goes wrong."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.app import embedded
from deploy.environment import Kit, prepare_python
from deploy.environment.lock import Lock, parse_lock
from deploy.environment.once import Once
from deploy.environment.prepare import BROUGHT_PYTHON, Interpreter, choose, shares, sync_options
from deploy.environment.requirements import requirements
from deploy.environment.target import Target
from deploy.environment.tools import compile_command, download_command, wheels_of
from deploy.errors import CommandFailed, ConnectionLost, HostError
from deploy.facts import REQUIREMENTS, Facts
from deploy.inventory import Host, Python, Ssh
from deploy.remote.fake import FakeRemote
from deploy.store import BigFile

if TYPE_CHECKING:
    from collections.abc import Callable

PI = Target("Linux", "aarch64", "3.11")
PC = Target("Linux", "x86_64", "3.11")
MAC = Target("Darwin", "arm64", "3.12")
COMPILED = """\
flwr==1.42.0 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
    # from https://index.example/simple
torch==2.14.1+cpu \\
    --hash=sha256:cc
    # from https://torch.example/whl/cpu
"""
PLAIN = COMPILED.replace("+cpu", "").replace("    # from https://torch.example/whl/cpu\n", "")
LOCK = parse_lock(PI, COMPILED)


def host(**python: str) -> Host:
    return Host(
        name="pi-a",
        role="client",
        host="192.0.2.1",
        ssh=Ssh(),
        python=Python(**{"manager": "uv"} | python),
        workdir="~/.fieldlab",
    )


def test_what_a_host_needs_is_what_the_project_says():
    """One source: pyproject.toml's text, as the installed metadata has it."""
    payload, cnn = requirements(embedded("flclient.apps.payload")), requirements(embedded("flclient.apps.cifar10"))
    assert {re.split(r"[<>=]", text)[0] for text in payload} == {"flwr", "grpcio", "msgspec", "numpy", "psutil"}
    assert {re.split(r"[<>=]", text)[0] for text in set(cnn) - set(payload)} == {"torch", "torchvision"}
    assert all(re.fullmatch(r"[a-z]+[<>=].*", text) for text in cnn)


def test_the_advice_for_existing_pythons_is_the_same():
    """What the look tells a user to install fits what uv would install."""
    (flwr,) = (text for text in requirements(embedded("flclient.apps.payload")) if text.startswith("flwr"))
    assert set(re.findall(r"[<>=]+[\d.]+", flwr)) == set(re.findall(r"[<>=]+[\d.]+", REQUIREMENTS["flwr"]))


def test_an_apps_own_dependencies_are_asked_for_with_ours():
    """What both ask for is one line; flwr comes without its simulation; markers and extras stay."""
    lines = (
        "flwr[simulation]>=1.22.0",
        "numpy<3",
        "scipy",
        "x[a]>=1 ; python_version < '3.12'",
        "psutil<7; os_name == 'nt'",
    )
    app = msgspec.structs.replace(embedded("flclient.apps.payload"), dependencies=lines)
    plain, asked = set(requirements(embedded("flclient.apps.payload"))), set(requirements(app))
    assert {line for line in plain if line.startswith(("flwr", "numpy"))} == plain - asked
    added = asked - plain
    (flwr,) = (line for line in added if line.startswith("flwr"))
    assert set(re.findall(r"[<>=]+[\d.]+", flwr)) == {">=1.41", "<2", ">=1.22.0"}
    assert "[" not in flwr
    (numpy,) = (line for line in added if line.startswith("numpy"))
    assert set(re.findall(r"[<>=]+[\d.]+", numpy)) == {">=1.26", "<3"}
    assert added - {flwr, numpy} == {"scipy", 'x[a]>=1; python_version < "3.12"', 'psutil<7; os_name == "nt"'}
    marked = msgspec.structs.replace(app, dependencies=("flwr[simulation]>=1.9; python_version < '4'",))
    assert 'flwr>=1.9; python_version < "4"' in requirements(marked)


@pytest.mark.parametrize(
    ("target", "uv", "some", "never"),
    [
        (PI, "aarch64-manylinux_2_28", {"manylinux2014_aarch64", "manylinux_2_28_aarch64", "linux_aarch64"}, "2_29"),
        (PC, "x86_64-manylinux_2_28", {"manylinux1_x86_64", "manylinux_2_5_x86_64", "manylinux_2_17_x86_64"}, "aarch"),
        (MAC, "aarch64-apple-darwin", {"macosx_14_0_arm64"}, "linux"),
    ],
)
def test_platforms(target: Target, uv: str, some: set[str], never: str):
    """Uv and pip are told the same thing in their own words."""
    assert target.uv_platform == uv
    assert some <= set(target.pip_platforms)
    assert not [tag for tag in target.pip_platforms if never in tag]


@pytest.mark.parametrize("target", [Target("Linux", "armv7l", "3.11"), Target("Windows", "AMD64", "3.11")])
def test_kinds_of_hosts_without_wheels(target: Target):
    """A 32-bit Raspberry Pi is none of ours."""
    assert not target.supported


def test_the_lock_is_its_pins():
    """Comments, where names of indexes and their users may stand, are not part of it."""
    assert LOCK.versions == {"flwr": "1.42.0", "torch": "2.14.1+cpu"}
    assert LOCK.torch_index == "https://torch.example/whl/cpu"
    assert "example" not in LOCK.text
    assert LOCK.text.count("--hash") == 3


def test_environments_are_known_by_all_that_makes_them_differ():
    """Pins, kind of host and Python version: nothing else, and none of them less."""
    others = [
        parse_lock(PC, COMPILED),
        parse_lock(Target("Linux", "aarch64", "3.12"), COMPILED),
        parse_lock(PI, COMPILED.replace("1.42.0", "1.42.1")),
        parse_lock(PI, COMPILED.replace("sha256:aa", "sha256:ab")),
    ]
    digests = [lock.digest("3.11.2") for lock in (LOCK, *others)] + [LOCK.digest("3.11.3")]
    assert len(set(digests)) == len(digests)
    assert (
        parse_lock(PI, "# other\n" + COMPILED.replace("index.example", "mirror.example")).digest("3.11.2") == digests[0]
    )
    assert re.fullmatch(r"[0-9a-f]{16}", digests[0])


NAMES = st.from_regex(r"\A[a-z][a-z0-9._-]{0,8}[a-z0-9]\Z")
VERSIONS = st.from_regex(r"\A[0-9]{1,2}(\.[0-9]{1,3}){0,2}(\+[a-z0-9]{1,4})?\Z")


@given(pins=st.dictionaries(NAMES, VERSIONS), comment=st.text(alphabet="ab =#", max_size=9))
def test_every_pin_is_read(pins: dict[str, str], comment: str):
    """Whatever else uv prints in comments between them."""
    text = "".join(f"{name}=={version} \\\n    --hash=sha256:0\n    # {comment}\n" for name, version in pins.items())
    lock = parse_lock(PI, text)
    assert lock.versions == pins
    assert parse_lock(PI, lock.text) == lock


@given(text=st.text())
def test_any_text_is_no_reason_to_crash(text: str):
    """A lock's file may be damaged: uv then says so, and parsing again changes nothing."""
    lock = parse_lock(PI, text)
    assert parse_lock(PI, lock.text).text == lock.text


def test_what_uv_is_asked():
    """Wheels alone, with hashes, for the host and not for this machine; the CPU build only where it is wanted."""
    argv = compile_command(PI, Path("in"), Path("out"), cpu_torch=False)
    words = " ".join(argv[1:])
    assert words.startswith("pip compile ")
    assert "--generate-hashes --only-binary=:all:" in words
    assert "--python-platform aarch64-manylinux_2_28 --python-version 3.11 --output-file out in" in words
    assert "--torch-backend cpu" in " ".join(compile_command(PI, Path("in"), Path("out"), cpu_torch=True))


def test_what_pip_is_asked():
    """The lock's hashes hold, nothing beyond the lock comes along, and PyTorch's index is one more."""
    words = " ".join(download_command(PI, Path("to"), wheels_of(LOCK, Path("lock"))))
    assert "-m pip download" in words
    assert "--no-deps --only-binary=:all:" in words
    assert "--platform manylinux_2_28_aarch64" in words
    assert words.endswith(
        "--dest to --require-hashes --extra-index-url https://torch.example/whl/cpu --requirement lock"
    )
    assert "--extra-index-url" not in " ".join(wheels_of(msgspec.structs.replace(LOCK, torch_index=None), Path("lock")))


def test_where_packages_come_from():
    """From the directories that were pushed and nowhere else; or from the index, PyTorch from the lock's."""
    assert sync_options(LOCK, ["/s/a", "/s/b"]) == ["--no-index", "--find-links", "/s/a", "--find-links", "/s/b"]
    assert sync_options(LOCK, []) == ["--torch-backend", "cpu"]
    assert sync_options(msgspec.structs.replace(LOCK, torch_index=None), []) == []


@pytest.mark.parametrize(
    ("python", "changed", "expected"),
    [
        ({}, {}, Interpreter("/home/pi/venv/bin/python", "3.11", "3.11.2")),
        ({"version": "3.11"}, {}, Interpreter("/home/pi/venv/bin/python", "3.11", "3.11.2")),
        ({"version": "3.13"}, {}, Interpreter("3.13", "3.13")),
        ({}, {"python_version": "3.9.2"}, Interpreter(BROUGHT_PYTHON, BROUGHT_PYTHON)),
        ({}, {"python": "", "python_version": "", "python_bits": 0}, Interpreter(BROUGHT_PYTHON, BROUGHT_PYTHON)),
        ({}, {"python_bits": 32}, Interpreter(BROUGHT_PYTHON, BROUGHT_PYTHON)),
        ({}, {"python": "/home/pi/.fieldlab/env/ab/bin/python"}, Interpreter(BROUGHT_PYTHON, BROUGHT_PYTHON)),
        ({"manager": "wheelhouse"}, {}, Interpreter("/home/pi/venv/bin/python", "3.11", "3.11.2")),
    ],
)
def test_which_python(facts: Callable[..., Facts], python, changed, expected):
    """The host's own if it will do, else the version that is asked for, else one that uv brings."""
    assert choose(host(**python), facts(**changed)) == expected


@pytest.mark.parametrize(
    ("python", "changed", "message"),
    [
        ({"manager": "wheelhouse"}, {"python_version": "3.9.2"}, "python is a 64-bit Python 3.9.2: install one"),
        ({"manager": "wheelhouse"}, {"python": "", "python_version": ""}, "there is none: install one"),
        ({"path": "/opt/py"}, {"python": "/opt/py", "python_bits": 32}, "/opt/py is a 32-bit Python 3.11.2"),
    ],
)
def test_no_python_will_do(facts: Callable[..., Facts], python, changed, message):
    """An offline host cannot be brought one, and a path that the user names is not passed over."""
    with pytest.raises(HostError, match=r"^pi-a: python: a 64-bit Python 3\.11 or later is needed, and ") as failure:
        choose(host(**python), facts(**changed))
    assert message in str(failure.value)


class Ready(Kit):
    """A kit that has all it needs."""

    def __init__(self, file: Path) -> None:
        self.file = BigFile(file, "5" * 64, 3)

    def lock(self, target: Target, *, cpu_torch: bool = False) -> Lock:
        return parse_lock(target, COMPILED if cpu_torch else PLAIN)

    def uv(self, target: Target) -> BigFile:  # noqa: ARG002 - the kit's signature
        return self.file

    def wheels(self, lock: Lock) -> tuple[BigFile, ...]:  # noqa: ARG002
        return (self.file,)


@pytest.fixture
def ready(tmp_path: Path) -> Ready:
    (tmp_path / "uv.gz").write_bytes(b"uv!")
    return Ready(tmp_path / "uv.gz")


def remote(told: str | Exception) -> FakeRemote:
    """Return a host whose store is full, and whose uv tells this."""
    return FakeRemote(
        "pi-a",
        {
            lambda argv: "environment" in argv: told,
            lambda argv: "store" in argv and "look" in argv: f"complete {'5' * 64}\n",
        },
    )


def test_what_exists_is_left_alone(facts, ready):
    """Nothing is asked of the host, nothing changes."""
    here = remote("")
    assert prepare_python(host(manager="existing"), here, facts(), ready, print) == facts()
    assert here.calls == []


def test_the_facts_are_those_of_the_new_environment(facts, ready):
    """Where its Python is and what it holds; all else is as it was."""
    said: list[str] = []
    here = remote("Using Python\npython 3.11.2\n + flwr==1.42.0\ncomplete 3.11.2\n")
    after = prepare_python(host(torch="cpu"), here, facts(), ready, said.append)
    digest = LOCK.digest("3.11.2")
    assert after.python == f"/home/pi/.fieldlab/env/{digest}/bin/python"
    assert after.envs == (digest,)
    assert {name: version for name, version in after.packages.items() if version} == {
        "flwr": "1.42.0",
        "torch": "2.14.1+cpu",
    }
    assert "Using Python" in said
    assert not [line for line in said if "+" in line]
    (call,) = [call for call in here.calls if call.verb == "run"]
    assert call.stdin.decode() == LOCK.text
    assert call.argv[-2:] == ("--torch-backend", "cpu")


def test_the_cpu_build_is_for_linux(facts, ready):
    """PyPI's PyTorch for macOS has no CUDA: nothing else is asked for."""
    here = remote("complete 3.11.2\n")
    prepare_python(host(torch="cpu"), here, facts(system="Darwin", machine="arm64"), ready, print)
    assert "--torch-backend" not in here.calls[-1].argv


@pytest.mark.parametrize(
    "case",
    [
        ({}, {}, "Using\npython 3.11.2\nerror: no", r"uv could not install the packages \(.*wheelhouse\)\n    Using\n"),
        (
            {"manager": "wheelhouse"},
            {},
            "python 3.11.2\nno",
            "uv could not install the wheels that were pushed\n    no$",
        ),
        ({}, {}, "error: exec format", "uv could not make a virtual environment with /home/pi/venv/bin/python\n"),
        ({"version": "3.13"}, {}, "error: dns", r"uv could neither find Python 3\.13 on the host nor bring it"),
        ({}, {"machine": "armv7l"}, "", r"flwr needs Linux or macOS on 64 bits \(.*\); this is Linux armv7l$"),
    ],
)
def test_what_goes_wrong_on_a_host(facts, ready, case):
    """Host, step, what failed, and the last lines of what uv said."""
    python, changed, told, message = case

    class Failing(FakeRemote):
        def run(self, argv, *, step, stdin=b"", on_line=None):
            super().run(argv, step=step, stdin=stdin, on_line=on_line)
            raise CommandFailed(self.host, step, argv, status=1, output=told)

    with pytest.raises(HostError, match=f"^pi-a: python: {message}"):
        prepare_python(host(**python), Failing("pi-a", remote(told).answers), facts(**changed), ready, print)


def test_a_script_that_ends_without_the_last_word_has_failed(facts, ready):
    """An exit status of 0 is not trusted by itself."""
    with pytest.raises(HostError, match="uv could not make a virtual environment"):
        prepare_python(host(), remote(""), facts(), ready, print)


def test_a_lost_connection_is_tried_again(facts, ready):
    """Installing may take an hour on Wi-Fi; a host that is gone for good ends it."""
    lost = ConnectionLost("pi-a", "python", "the connection was lost")

    class Flaky(FakeRemote):
        losses = 2

        def run(self, argv, *, step, stdin=b"", on_line=None):
            told = super().run(argv, step=step, stdin=stdin, on_line=on_line)
            self.losses -= 1
            if self.losses >= 0:
                raise lost
            return told

    answers = remote("complete 3.11.2\n").answers
    assert prepare_python(host(), Flaky("pi-a", answers), facts(), ready, print).python_version == "3.11.2"
    gone = remote(lost)
    with pytest.raises(ConnectionLost):
        prepare_python(host(), gone, facts(), ready, print)
    assert [call.verb for call in gone.calls].count("run") == 3


def test_progress_is_told_in_tenths():
    """Not a line for each of ten thousand packets."""
    said: list[str] = []
    report = shares(said.append, "uv")
    for done in range(0, 20_000_001, 1000):
        report(done, 20_000_000)
    assert len(said) == 11
    assert said[-1] == "uv: 20 of 20 MB"


def test_once_for_all_threads():
    """Those who come second wait for the first; a failure is everybody's."""
    once: Once[int] = Once()
    began, go = threading.Event(), threading.Event()
    made, got = [], []

    def make() -> int:
        made.append(1)
        began.set()
        go.wait()
        return 5

    threads = [threading.Thread(target=lambda: got.append(once.get("key", make))) for _ in range(5)]
    for thread in threads:
        thread.start()
    began.wait()
    go.set()
    for thread in threads:
        thread.join()
    assert (made, got) == ([1], [5] * 5)

    def fail() -> int:
        raise HostError("pi-a", "python", "no")

    for _ in range(2):
        with pytest.raises(HostError):
            once.get("other", fail)
