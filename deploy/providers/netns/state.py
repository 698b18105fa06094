"""What a lab of network namespaces could leave on this machine, and how all of it goes away.

A lab is a directory below BASE that is locked (flock) by all of the lab's own processes: who can lock it knows that the
lab is dead, without trusting process ids. Beside it there are only control groups and one network interface, whose
names hold the lab's id.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import subprocess
import time
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from deploy.errors import DeployError
from deploy.providers.netns import cgroup, links
from deploy.providers.netns.plan import LabPlan, Ready

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.providers.netns.plan import Request

T = TypeVar("T")

BASE = Path("/run/fieldlab/netns")
_PLAN, _READY = "plan.json", "ready.json"


@dataclass(frozen=True)
class LabState:
    """A lab's private directory."""

    root: Path

    @property
    def identity_file(self) -> Path:
        """The private key that opens every host of this lab."""
        return self.root / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        """The host keys of this lab, in OpenSSH's format."""
        return self.root / "known_hosts"

    @property
    def socket(self) -> Path:
        """Where the lab's supervisor takes orders."""
        return self.root / "control"

    @property
    def machine_room(self) -> Path:
        """Where the supervisor keeps the hosts' disks: empty for everybody else, it is mounted for the lab alone."""
        return self.root / "hosts"

    @property
    def plan(self) -> LabPlan | None:
        """What the lab is; None if it was killed before it could say so, or is of another version."""
        return _read(self.root / _PLAN, LabPlan)

    @property
    def ready(self) -> Ready | None:
        """The running lab; None as long as it is being started."""
        return _read(self.root / _READY, Ready)

    def is_alive(self) -> bool:
        """Tell whether any of the lab's processes is left."""
        try:
            directory = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(directory, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(directory)
        return False

    def wait_until_dead(self, patience_s: float) -> bool:
        """Wait for the lab's last process, but not for ever; True if it has gone."""
        deadline = time.monotonic() + patience_s
        while self.is_alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return True

    def write_ready(self, ready: Ready) -> None:
        """Write down how the hosts are reached, first for SSH, then for whoever looks for the lab."""
        lines = (
            f"{','.join(filter(None, (host.address, host.address6)))} {host.key}\n" for host in ready.hosts.values()
        )
        self.known_hosts.write_text("".join(lines))
        _write(self.root / _READY, ready)

    def destroy(self) -> None:
        """Remove what is left of a lab whose processes are gone."""
        plan = self.plan
        if plan is not None:
            links.remove_interface(plan.request.programs.ip, plan.veth)
            cgroup.remove(plan.id)
        shutil.rmtree(self.root, ignore_errors=True)


@contextlib.contextmanager
def registry() -> Iterator[None]:
    """Be the only one who starts, ends or clears labs, for the length of a with-block; leaves no directory behind."""
    directory = _locked_base()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # not empty: there are labs
            BASE.rmdir()
            BASE.parent.rmdir()
        os.close(directory)


def _locked_base() -> int:
    while True:
        with contextlib.suppress(FileNotFoundError):  # another has just removed it
            BASE.mkdir(parents=True, exist_ok=True)
            directory = os.open(BASE, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(directory, fcntl.LOCK_EX)
            if _is_at(directory, BASE):
                return directory
            os.close(directory)


def _is_at(directory: int, path: Path) -> bool:
    """Tell whether an open directory is the one that has this name now."""
    try:
        return os.path.samestat(os.fstat(directory), path.stat())
    except FileNotFoundError:
        return False


def states() -> list[LabState]:
    """Return every lab of this machine, living or dead."""
    try:
        return [LabState(path) for path in sorted(BASE.iterdir())]
    except FileNotFoundError:
        return []


def clear_leftovers() -> None:
    """Clear what labs left that were killed with all of their processes; call it inside `registry`."""
    alive = []
    for state in states():
        if state.is_alive():
            alive.append(state.root.name)
        else:
            state.destroy()
    cgroup.remove_all_but(alive)


def create(request: Request) -> tuple[LabState, LabPlan, int]:
    """Make a new lab's directory, and return it with the plan and the open, locked directory; DeployError.

    Call it inside `registry`. Control groups are made, keys too; interfaces and processes are not.
    """
    state = LabState(BASE / secrets.token_hex(4))
    state.root.mkdir(mode=0o700)
    lock = os.open(state.root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        plan = _plan(state, request)
        _write(state.root / _PLAN, plan)
        state.machine_room.mkdir()
        _make_key(state, request)
        cgroup.create(plan)
    except BaseException:
        state.destroy()
        os.close(lock)
        raise
    return state, plan, lock


def _plan(state: LabState, request: Request) -> LabPlan:
    plans = [other.plan for other in states() if other.is_alive()]
    others = [plan for plan in plans if plan is not None]
    if request.lasting and any(plan.request.lasting and plan.request.lab == request.lab for plan in others):
        raise DeployError(f"lab {request.lab} is up already; end it with: deploy lab down")
    taken = [*links.routes_here(request.programs.ip), *(IPv4Network(plan.network) for plan in others)]
    return LabPlan(
        id=state.root.name,
        request=request,
        network=str(links.free_network(taken)),
        network6=links.free_network6(),
        started=time.time(),
    )


def _make_key(state: LabState, request: Request) -> None:
    argv = [request.programs.keygen, "-q", "-t", "ed25519", "-N", "", "-C", request.lab, "-f", str(state.identity_file)]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError):
        return None


def _write(path: Path, value: msgspec.Struct) -> None:
    """Write a file so that a reader sees all of it or nothing."""
    draft = path.with_suffix(".new")
    draft.write_bytes(msgspec.json.encode(value))
    draft.rename(path)
