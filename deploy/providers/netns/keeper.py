"""Starts a lab of network namespaces, and clears up when it is over.

Run by `deploy.providers.netns.lab` as `python -m deploy.providers.netns.keeper`. Reads one JSON line (`Request`) from
standard input, answers with one (`Report`) once every host can be reached, and ends the lab when the pipe closes, by
whatever cause; a lasting lab does so only until it is ready.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from deploy.errors import DeployError
from deploy.providers.netns import calls, supervisor
from deploy.providers.netns import state as netns_state
from deploy.providers.netns.plan import Failed, LabPlan, Reached, Ready, Request, Up

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from deploy.providers.netns.state import LabState

_STDIN, _STDOUT = 0, 1


@dataclass(frozen=True)
class _Supervised:
    """The supervisor's process, and where it reports."""

    pid: int
    pidfd: int
    report: int

    def kill(self) -> None:
        """End the lab; returns when its last process is gone."""
        signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)  # at worst to a zombie: it is only now waited for
        os.waitpid(self.pid, 0)


def _fork(state: LabState, plan: LabPlan, lock: int) -> _Supervised:
    """Start the supervisor as the first process of a new PID namespace."""
    parent, parenting = os.pipe()
    report, reporting = os.pipe()
    pids = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        calls.unshare(calls.NEW_PIDS)
    except OSError as error:
        raise DeployError(f"this machine does not allow new namespaces ({error.strerror})") from error
    pid = os.fork()
    if pid == 0:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        _let_go()
        for file in (parenting, report, pids):
            os.close(file)
        supervisor.run(state, plan, supervisor.Lifelines(parent, reporting, lock))
    calls.come_back(pids, calls.NEW_PIDS)
    for file in (parent, reporting, pids):
        os.close(file)
    return _Supervised(pid, os.pidfd_open(pid), report)


def _let_go() -> None:
    """Cut the ties to the controller's pipes."""
    null = os.open(os.devnull, os.O_RDWR)
    for file in (_STDIN, _STDOUT):
        os.dup2(null, file)
    os.close(null)


def _keep(state: LabState, plan: LabPlan, supervised: _Supervised) -> None:
    """Pass on that the lab is ready, or why not, and return when it is over."""
    watched, told = {_STDIN, supervised.pidfd, supervised.report}, b""
    while True:
        ready = select.select(watched, [], [])[0]
        if supervised.report in ready:
            data = os.read(supervised.report, 1 << 16)
            told += data
            if not data or told.endswith(b"\n"):
                watched.discard(supervised.report)
            if told.endswith(b"\n"):
                _pass_on(state, plan, msgspec.json.decode(told, type=Up | Failed))
                if plan.request.lasting:
                    _let_go()
                    watched.discard(_STDIN)
        elif supervised.pidfd in ready or not os.read(_STDIN, 1 << 16):
            return


def _pass_on(state: LabState, plan: LabPlan, told: Up | Failed) -> None:
    if isinstance(told, Failed):
        _say(told)
        return
    hosts = {
        host.name: Reached(
            address=plan.address(host.number), address6=plan.address6(host.number), key=told.keys[host.name]
        )
        for host in plan.request.hosts
    }
    ready = Ready(plan=plan, hosts=hosts)
    state.write_ready(ready)
    _say(ready)


def _say(message: Ready | Failed) -> None:
    os.write(_STDOUT, msgspec.json.encode(message) + b"\n")


def _read_line() -> bytes:
    said = b""
    while not said.endswith(b"\n"):
        data = os.read(_STDIN, 1 << 16)
        if not data:
            sys.exit(1)  # the controller has changed its mind
        said += data
    return said


def _heed(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, handler)


def main() -> None:
    """Keep one lab."""
    os.chdir("/")  # a lasting lab must not hold the directory that it was started from
    os.umask(0o022)
    _heed(lambda _number, _frame: sys.exit(1))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    request = msgspec.json.decode(_read_line(), type=Request)
    if request.lasting and os.fork():
        os._exit(0)  # who goes on is nobody's child: the controller, which may live long too, need not wait for it
    try:
        with netns_state.registry():
            netns_state.clear_leftovers()
            state, plan, lock = netns_state.create(request)
    except DeployError as error:
        _say(Failed(why=str(error)))
        return
    try:
        supervised = _fork(state, plan, lock)
        try:
            _keep(state, plan, supervised)
        finally:
            _heed(signal.SIG_IGN)
            supervised.kill()
    except DeployError as error:
        _say(Failed(why=str(error)))
    finally:
        _heed(signal.SIG_IGN)
        with netns_state.registry():
            state.destroy()
            os.close(lock)


if __name__ == "__main__":
    main()
