"""Labs of network namespaces (Linux, root), and the check that nothing of them stays on this machine."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from deploy.inventory import NetnsLab
from deploy.providers.netns import cgroup as netns_cgroup
from deploy.providers.netns import state as netns_state
from deploy.providers.netns.lab import netns_lab
from deploy.providers.netns.plan import MARK
from tests import cabledlab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

    from deploy.inventory import Inventory
    from tests.cable import Both
    from tests.cabledlab import CabledLab

PREFIX = f"t{os.getpid()}-"
PACKAGES = {"ip": "iproute2", "sshd": "openssh-server", "ssh": "openssh-client"}
NUMBERS = itertools.count(1)


def pytest_collection_modifyitems(items):
    """Skip this ring where there can be no such lab, and say why."""
    search = f"{os.defpath}:/usr/sbin:/sbin"
    missing = [package for program, package in PACKAGES.items() if shutil.which(program, path=search) is None]
    reason = None
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        reason = "network namespaces need Linux and root"
    elif missing:
        reason = f"not installed: {', '.join(missing)}"
    for item in items if reason else ():
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))


def new_lab(clients: int = 1, cpu: dict[str, float] | None = None) -> NetnsLab:
    """Return a lab that is nobody else's: labs of other runs on this machine are none of our business."""
    name = f"{PREFIX}{next(NUMBERS)}"
    return NetnsLab(file=Path("netns.yaml"), lab=name, playbook=None, clients=clients, cpu=cpu or {})


def footprint() -> set[str]:
    """Return what there is on this machine of any lab, but for the labs that another's tests run at this time."""
    foreign = {
        state.root.name
        for state in netns_state.states()
        if (plan := state.plan) is not None and not plan.request.lab.startswith(PREFIX)
    }
    # One without a plan was killed in its first milliseconds: nobody can say whose it is, and the next start clears it.
    found = {(state.root.name, f"directory {state.root}") for state in netns_state.states() if state.plan is not None}
    found |= {(path.name[3:], f"interface {path.name}") for path in Path("/sys/class/net").glob("fl-*")}
    hierarchy = netns_cgroup.here()
    for path in hierarchy.root.glob(f"{netns_cgroup.PREFIX}*") if hierarchy else ():
        found.add((path.name.removeprefix(netns_cgroup.PREFIX), f"cgroup {path.name}"))
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            found |= {(lab, f"process {process.pid} of lab {lab}") for lab in labs_of(process)}
    return {what for lab, what in found if lab not in foreign}


def labs_of(process: psutil.Process) -> set[str]:
    """Return the ids of the labs in whose mounts a process lives; a keeper, which has none, is known by its mark."""
    mounts = Path(f"/proc/{process.pid}/mountinfo").read_text(errors="replace")
    ids = set(re.findall(rf"{netns_state.BASE}/([0-9a-f]+)/hosts", mounts))
    return ids or ({"keeper"} if process.environ().get(MARK, "").startswith(PREFIX) else set())


def eventually(what: Callable[[], bool], seconds: float = 10) -> bool:
    """Wait for what no file tells of, as the kernel taking a namespace down."""
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@pytest.fixture(scope="session", autouse=True)
def _nothing_stays() -> Iterator[None]:
    """No directory, interface, control group, mount or process of a lab outlives the ring."""
    before = footprint()
    yield
    assert eventually(lambda: footprint() <= before), f"left behind: {footprint() - before}"


@pytest.fixture
def clean() -> Iterator[Callable[..., set[str]]]:
    """Give a function that waits until what came since is gone, but for what is expected, and returns what is not."""
    before = footprint()

    def left(*expected: str) -> set[str]:
        def unexpected() -> set[str]:
            return {what for what in footprint() - before if not what.startswith(expected)}

        eventually(lambda: not unexpected())
        return unexpected()

    yield left
    assert left() == set()


@pytest.fixture(scope="session")
def make_lab() -> Callable[..., NetnsLab]:
    return new_lab


@pytest.fixture(scope="session")
def uml() -> ModuleType:
    """Give the module that starts hosts with a kernel and a clock of their own; skip where there can be none."""
    spec = importlib.util.spec_from_file_location("uml", Path(__file__).with_name("uml.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    reason = module.missing()
    if reason:
        pytest.skip(reason)
    return module


@pytest.fixture
def wait_for() -> Callable[..., bool]:
    return eventually


@pytest.fixture(scope="session")
def lab() -> Iterator[Inventory]:
    """A lab that many tests share: they leave its hosts on."""
    with netns_lab(new_lab(2, {"client-1": 0.25})) as inventory:
        yield inventory


@pytest.fixture
def cabled_lab(tmp_path: Path) -> Iterator[Callable[..., CabledLab]]:
    """Give a function that starts a lab with a cable to each client; `through`: SSH goes over the cables too."""
    with contextlib.ExitStack() as stack:

        def start(*boths: Both, through: bool = False) -> CabledLab:
            lab = new_lab(len(boths))
            return stack.enter_context(cabledlab.laid(lab, boths, tmp_path, through=through))

        yield start
    assert eventually(lambda: not Path(f"/sys/class/net/{cabledlab.HERE}").exists())
