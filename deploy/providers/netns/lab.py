"""Starts the hosts of a lab in network namespaces on this machine (Linux, root), and takes them away without a trace.

A lab lives as long as the command that starts it or, started by `lab_up`, until `lab_down`. Everything after this
module is the same code path as on a real lab. This is the controller's side: `deploy.providers.netns.keeper` does it.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

import msgspec

from deploy.errors import TAIL_LINES, DeployError
from deploy.inventory import Host, Inventory, Python, Ssh
from deploy.providers.netns import state as netns_state
from deploy.providers.netns.control import give_order, kill
from deploy.providers.netns.machine import check_machine, visible_directories
from deploy.providers.netns.plan import MARK, SERVER_PORT, SSH_PORT, Extras, Failed, HostPlan, Order, Ready, Request

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from deploy.inventory import NetnsLab
    from deploy.providers.netns.state import LabState

__all__ = [
    "Extras",
    "addresses6",
    "find_lab",
    "lab_down",
    "lab_up",
    "lasting_labs",
    "netns_lab",
    "power_off",
    "power_on",
]

_START_S = 30.0
_END_S = 15.0
_DEATH_S = 2.0
_SOURCE = Path(__file__).resolve().parents[3]


@contextlib.contextmanager
def netns_lab(lab: NetnsLab, extras: Mapping[str, Extras] | None = None) -> Iterator[Inventory]:
    """Give a lab's hosts for the length of a with-block: those of the lasting lab, else new ones; DeployError.

    A lasting lab is one that `lab_up` started from the same inventory. However this process ends (Ctrl-C, SIGKILL), new
    hosts end with it. `extras` (host name → Extras) always asks for new ones.
    """
    request = _request(lab, extras or {}, lasting=False)
    lasting = None if extras else _lasting(lab.lab)
    if lasting is not None and lasting[1].plan.request.hosts == request.hosts:
        yield _inventory(lab, *lasting)
        return
    with tempfile.TemporaryFile() as stderr, _keeper(lab.lab, stderr) as process:
        ready = _start(process, request, stderr)
        yield _inventory(lab, netns_state.LabState(netns_state.BASE / ready.plan.id), ready)


def lab_up(lab: NetnsLab) -> Inventory:
    """Start a lab that outlives this process; returns its hosts, also if it is up already. DeployError."""
    request = _request(lab, {}, lasting=True)
    lasting = _lasting(lab.lab)
    if lasting is not None:
        if lasting[1].plan.request.hosts != request.hosts:
            raise DeployError(f"lab {lab.lab} is up with other hosts; end it with: deploy lab down {lab.file}")
        return _inventory(lab, *lasting)
    with tempfile.TemporaryFile() as stderr, _keeper(lab.lab, stderr) as process:
        ready = _start(process, request, stderr)
    return _inventory(lab, netns_state.LabState(netns_state.BASE / ready.plan.id), ready)


def find_lab(lab: NetnsLab) -> Inventory | None:
    """Return the hosts of the lasting lab of this name as they are; None if it is not up. DeployError."""
    check_machine()
    lasting = _lasting(lab.lab)
    return None if lasting is None else _inventory(lab, *lasting)


def lasting_labs() -> list[Ready]:
    """Return the lasting labs that are up on this machine. DeployError."""
    check_machine()
    return [ready for _, ready in _all_lasting()]


def lab_down(name: str | None = None) -> list[str]:
    """End the lasting lab of that name, or all of them; returns the names of those that were up. DeployError.

    Also clears what labs left whose processes were all killed.
    """
    check_machine()
    ended = []
    for state in netns_state.states():
        plan = state.plan
        if plan is not None and plan.request.lasting and name in (None, plan.request.lab) and state.is_alive():
            kill(state)
            ended.append(plan.request.lab)
    with netns_state.registry():
        netns_state.clear_leftovers()
    return ended


def power_off(inventory: Inventory, host: str) -> None:
    """Take the power from a host: it falls silent in the middle of a word; what it wrote stays. DeployError."""
    give_order(_state_of(inventory), Order(host=host, power=False))


def power_on(inventory: Inventory, host: str) -> None:
    """Boot a host that is off; returns when its SSH server can be reached. DeployError."""
    give_order(_state_of(inventory), Order(host=host, power=True))


def addresses6(inventory: Inventory) -> dict[str, str]:
    """Return the IPv6 address of each host; nothing on a machine without IPv6."""
    ready = _state_of(inventory).ready
    return {name: host.address6 for name, host in ready.hosts.items() if host.address6} if ready else {}


def _request(lab: NetnsLab, extras: Mapping[str, Extras], *, lasting: bool) -> Request:
    programs = check_machine()
    hosts = tuple(
        HostPlan(name=name, number=number, cpu=lab.cpu.get(name), extras=extras.get(name, Extras()))
        for number, name in enumerate(lab.names, start=1)
    )
    return Request(
        lab=lab.lab,
        lasting=lasting,
        hosts=hosts,
        programs=programs,
        python=sys.executable,
        visible=visible_directories(),
    )


def _all_lasting() -> Iterator[tuple[LabState, Ready]]:
    for state in netns_state.states():
        ready = state.ready
        if ready is not None and ready.plan.request.lasting and state.is_alive():
            yield state, ready


def _lasting(name: str) -> tuple[LabState, Ready] | None:
    return next(((state, ready) for state, ready in _all_lasting() if ready.plan.request.lab == name), None)


@contextlib.contextmanager
def _keeper(name: str, stderr: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Hold the pipe whose end, by any cause, makes the keeper end the lab."""
    process = _spawn(name, stderr)
    try:
        yield process
    finally:
        if not _ends(process):
            _clear_after(name)


def _spawn(name: str, stderr: IO[bytes]) -> subprocess.Popen[bytes]:
    path = os.pathsep.join(filter(None, (str(_SOURCE), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        [sys.executable, "-m", "deploy.providers.netns.keeper"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=os.environ | {"PYTHONPATH": path, MARK: name},
        start_new_session=True,  # Ctrl-C in a terminal goes to the whole foreground process group
    )


def _ends(process: subprocess.Popen[bytes]) -> bool:
    """Close the pipe, and wait until the keeper has cleared up or, of a lasting lab that is ready, has let go of us.

    False if it was killed, or had to be, and could not clear up.
    """
    if process.stdin is None or process.stdout is None:
        raise AssertionError("made with pipes")
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    with process.stdout as answers:
        ended = _ends_within(answers, _END_S)
    if not ended:
        process.kill()
    return process.wait() >= 0


def _clear_after(name: str) -> None:
    """Clear up for a keeper that was killed, once the kernel has killed all that it kept."""
    for state in netns_state.states():
        plan = state.plan
        if plan is not None and plan.request.lab == name and not plan.request.lasting:
            state.wait_until_dead(_DEATH_S)
    with netns_state.registry():
        netns_state.clear_leftovers()


def _ends_within(stream: IO[bytes], patience_s: float) -> bool:
    while select.select([stream], [], [], patience_s)[0]:
        if not os.read(stream.fileno(), 1 << 16):
            return True
    return False


def _start(process: subprocess.Popen[bytes], request: Request, stderr: IO[bytes]) -> Ready:
    if process.stdin is None or process.stdout is None:
        raise AssertionError("made with pipes")
    with contextlib.suppress(BrokenPipeError):  # it has ended already: its stderr says why
        process.stdin.write(msgspec.json.encode(request) + b"\n")
        process.stdin.flush()
    told, _, _ = select.select([process.stdout], [], [], _START_S)
    line = process.stdout.readline() if told else b""
    if not line.endswith(b"\n"):
        raise DeployError(_failure(stderr, in_time=bool(told)))
    report = msgspec.json.decode(line, type=Ready | Failed)
    if isinstance(report, Failed):
        raise DeployError(report.why)
    return report


def _failure(stderr: IO[bytes], *, in_time: bool) -> str:
    stderr.seek(0)
    tail = stderr.read().decode(errors="replace").strip().splitlines()[-TAIL_LINES:]
    what = "ended while they were starting" if in_time else f"were not ready within {_START_S:.0f} s"
    return "\n".join([f"netns lab: its hosts {what}", *(f"    {line}" for line in tail)])


def _inventory(lab: NetnsLab, state: LabState, ready: Ready) -> Inventory:
    server, *clients = (
        _host(name, "server" if number == 0 else "client", state, ready) for number, name in enumerate(ready.hosts)
    )
    return Inventory(
        file=lab.file,
        lab=lab.lab,
        playbook=lab.playbook,
        server=server,
        server_address=f"{server.host}:{SERVER_PORT}",
        clients=tuple(clients),
    )


def _host(name: str, role: Literal["server", "client"], state: LabState, ready: Ready) -> Host:
    return Host(
        name=name,
        role=role,
        host=ready.hosts[name].address,
        ssh=Ssh(
            user="root",
            port=SSH_PORT,
            identity_file=str(state.identity_file),
            known_hosts=str(state.known_hosts),
        ),
        python=Python(manager="existing", path=ready.plan.request.python),
        workdir="~/.fieldlab",
    )


def _state_of(inventory: Inventory) -> LabState:
    """Return the directory of the lab that an inventory was made for."""
    return netns_state.LabState(Path(inventory.server.ssh.identity_file or "").parent)
