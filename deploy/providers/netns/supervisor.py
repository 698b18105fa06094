"""Holds a lab of network namespaces: everything in it lives as long as this one process, and no longer.

Forked by `deploy.providers.netns.keeper` as process 1 of a new PID namespace, so that the kernel kills every process of
every host when it dies by whatever cause; the namespaces, mounts and interfaces go with them: nothing else holds them.
Takes orders (`Order`) through a socket: switching a host off is its power failure, switching it on its boot.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import msgspec

from deploy.errors import DeployError
from deploy.providers.netns import calls, links
from deploy.providers.netns import host as netns_host
from deploy.providers.netns.plan import CALLER, Failed, Order, Up
from deploy.providers.netns.root import Disk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deploy.providers.netns.plan import Answer, HostPlan, LabPlan
    from deploy.providers.netns.state import LabState

_NETWORK, _PIDS = "/proc/self/ns/net", "/proc/self/ns/pid"
_STDERR = 2
_BOOT_S = 20.0
_ORDER_S = 5.0


@dataclass(frozen=True)
class Lifelines:
    """Open files of the keeper's: `parent` closes when it ends, the others are its lock and where it wants to hear."""

    parent: int
    report: int
    lock: int


@dataclass(frozen=True)
class _Process:
    """The first process of a host that is on, and where it reports."""

    host: HostPlan
    pid: int
    pidfd: int
    report: int


class Supervisor:
    """A lab's bridge and its hosts."""

    def __init__(self, state: LabState, plan: LabPlan, lock: int) -> None:
        self._plan, self._lock = plan, lock
        self._caller = os.open(_NETWORK, os.O_RDONLY | os.O_CLOEXEC)
        calls.unshare(calls.NEW_MOUNTS | calls.NEW_NET)
        calls.make_private()
        self._network = os.open(_NETWORK, os.O_RDONLY | os.O_CLOEXEC)
        self._pids = os.open(_PIDS, os.O_RDONLY | os.O_CLOEXEC)
        self._public_key = state.identity_file.with_suffix(".pub").read_text()
        self._room = state.machine_room
        self._on: dict[str, _Process] = {}

    def start(self) -> dict[str, str]:
        """Make the network and switch all hosts on; returns the keys of their SSH servers."""
        calls.mount("tmpfs", self._room, "mode=755")
        links.quiet()
        links.build_bridge(self._plan, self._caller)
        with calls.inside(self._caller, self._network, calls.NEW_NET):
            links.set_addresses(self._plan, self._plan.veth, CALLER)
        for host in self._plan.request.hosts:
            self._disk(host).format(host)
        return self._switch_on(self._plan.request.hosts)

    def obey(self, listener: socket.socket) -> NoReturn:
        """Take orders for ever, and notice hosts that lose their power by themselves."""
        while True:
            files = {process.pidfd: process for process in self._on.values()}
            for ready in select.select([listener.fileno(), *files], [], [])[0]:
                if ready == listener.fileno():
                    self._answer(listener)
                    break  # an order may have ended the others
                self._forget(files[ready])

    def _answer(self, listener: socket.socket) -> None:
        asking, _ = listener.accept()
        with asking, contextlib.suppress(OSError):  # who asked may be gone before the answer
            asking.settimeout(_ORDER_S)
            asking.sendall(msgspec.json.encode(self._done(asking.recv(1 << 16))) + b"\n")

    def _done(self, said: bytes) -> Answer:
        try:
            order = msgspec.json.decode(said, type=Order)
            return Up(keys=self._switch(order))
        except (DeployError, OSError, msgspec.MsgspecError) as error:
            return Failed(why=str(error))

    def _switch(self, order: Order) -> dict[str, str]:
        known = {host.name: host for host in self._plan.request.hosts}
        if order.host not in known:
            raise DeployError(f"there is no host {order.host!r} (known hosts: {', '.join(known)})")
        if order.power == (order.host in self._on):
            raise DeployError(f"{order.host} is {'on' if order.power else 'off'} already")
        if order.power:
            return self._switch_on([known[order.host]])
        links.cut(self._plan, known[order.host])
        self._forget(self._on[order.host])
        return {}

    def _switch_on(self, hosts: Sequence[HostPlan]) -> dict[str, str]:
        namespaces = {host.number: self._new_network() for host in hosts}
        try:
            links.plug_in(self._plan, namespaces)
            for host in hosts:
                self._on[host.name] = self._boot(host, namespaces[host.number])
        finally:
            for namespace in namespaces.values():
                os.close(namespace)
        return {host.name: _key(self._on[host.name]) for host in hosts}

    def _new_network(self) -> int:
        calls.unshare(calls.NEW_NET)
        try:
            links.at_once()
            return os.open(_NETWORK, os.O_RDONLY | os.O_CLOEXEC)
        finally:
            calls.come_back(self._network, calls.NEW_NET)

    def _boot(self, host: HostPlan, namespace: int) -> _Process:
        """Fork a host's first process in namespaces of its own."""
        report, reporting = os.pipe()
        with calls.inside(namespace, self._network, calls.NEW_NET):
            calls.unshare(calls.NEW_PIDS)
            pid = os.fork()
            if pid == 0:
                _close_all_but(self._lock, reporting)
                netns_host.live(netns_host.Booting(self._plan, host, self._disk(host), self._public_key), reporting)
            calls.come_back(self._pids, calls.NEW_PIDS)
        os.close(reporting)
        return _Process(host, pid, os.pidfd_open(pid), report)

    def _disk(self, host: HostPlan) -> Disk:
        return Disk(self._room / host.name)

    def _forget(self, process: _Process) -> None:
        """Kill what is left of a host, and remove its end of the cable, so that its name is free for the next boot."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(process.pidfd, signal.SIGKILL)
        os.waitpid(process.pid, 0)
        for file in (process.pidfd, process.report):
            os.close(file)
        del self._on[process.host.name]
        links.unplug(self._plan, process.host)


def run(state: LabState, plan: LabPlan, lifelines: Lifelines) -> NoReturn:
    """Be a lab's supervisor until death; says on `lifelines.report` when all hosts are on, or why they are not."""
    try:
        calls.die_with_parent()
        if select.select([lifelines.parent], [], [], 0)[0]:
            os._exit(1)  # the keeper died before it could take us with it
        with socket.socket(socket.AF_UNIX) as listener:
            supervisor = Supervisor(state, plan, lifelines.lock)
            keys = supervisor.start()
            listener.bind(str(state.socket))
            listener.listen()
            os.write(lifelines.report, msgspec.json.encode(Up(keys=keys)) + b"\n")
            supervisor.obey(listener)
    except (DeployError, OSError) as error:
        os.write(lifelines.report, msgspec.json.encode(Failed(why=_why(error))) + b"\n")
    finally:
        os._exit(1)


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and "unshare" in str(error):
        return f"this machine does not allow new namespaces ({error.strerror}): in a container, start it privileged"
    return f"{error}"


def _key(process: _Process) -> str:
    """Wait until a host is on; returns its key."""
    told = b""
    while not told.endswith(b"\n"):
        if not select.select([process.report], [], [], _BOOT_S)[0]:
            raise DeployError(f"{process.host.name}: not on within {_BOOT_S:.0f} s")
        data = os.read(process.report, 1 << 16)
        if not data:
            raise DeployError(f"{process.host.name}: ended while it was starting")
        told += data
    answer = msgspec.json.decode(told, type=Up | Failed)
    if isinstance(answer, Failed):
        raise DeployError(answer.why)
    return answer.keys[process.host.name]


def _close_all_but(*files: int) -> None:
    """Keep a host from holding what belongs to its supervisor or to other hosts."""
    for path in Path("/proc/self/fd").iterdir():
        file = int(path.name)
        if file > _STDERR and file not in files:
            with contextlib.suppress(OSError):  # the listing's own file is closed by now
                os.close(file)
