"""Speaks to the supervisor of a running lab of network namespaces, through its socket."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
from typing import TYPE_CHECKING

import msgspec

from deploy.errors import DeployError
from deploy.providers.netns.plan import Failed, Up

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.providers.netns.plan import Order
    from deploy.providers.netns.state import LabState

_ANSWER_S = 30.0
_END_S = 15.0


def give_order(state: LabState, order: Order) -> None:
    """Tell the lab's supervisor to do something, and wait until it is done; DeployError."""
    try:
        with _connected(state) as asking, asking.makefile("rb") as answer:
            asking.sendall(msgspec.json.encode(order))
            told = msgspec.json.decode(answer.readline(), type=Up | Failed)
    except (OSError, msgspec.MsgspecError) as error:
        raise DeployError(f"lab {_name(state)} does not answer: is it still up?") from error
    if isinstance(told, Failed):
        raise DeployError(told.why)


@contextlib.contextmanager
def _connected(state: LabState) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(_ANSWER_S)
        asking.connect(str(state.socket))
        yield asking


def kill(state: LabState) -> None:
    """Kill a lab's supervisor, with which everything goes, and wait until it has gone; DeployError."""
    try:
        with _connected(state) as asking:
            _kill_peer(asking)
    except OSError as error:
        if state.is_alive():
            raise DeployError(f"lab {_name(state)} is just being started, or ended: try again") from error
    if not state.wait_until_dead(_END_S):
        raise DeployError(f"lab {_name(state)} does not end within {_END_S:.0f} s")


def _kill_peer(asking: socket.socket) -> None:
    """Kill the process that listens at the other end: never another that has its process id by now."""
    pid = int.from_bytes(asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], sys.byteorder)
    pidfd = os.pidfd_open(pid)
    try:
        if not select.select([asking], [], [], 0)[0]:  # not hung up: it lives, so the process id is still its own
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    finally:
        os.close(pidfd)


def _name(state: LabState) -> str:
    plan = state.plan
    return plan.request.lab if plan is not None else state.root.name
