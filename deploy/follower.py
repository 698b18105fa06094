"""Watches one process from a thread of its own, over as many connections as it takes."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import msgspec

from deploy.errors import CommandFailed, ConnectionLost, DeployError, HostError
from flcommon.eventlog import parse_line

if TYPE_CHECKING:
    from deploy.worker import Worker
    from flcommon.process import Order

_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 8.0
_LATER_WAIT_S = 30.0
"""The longest wait before a host is looked for again, in the first minutes and after."""
_REFUSED = 1
"""The status of a verb that says in one line why it will not do what it is asked."""


@dataclass(frozen=True)
class Away:
    """A host is out of reach, and is being looked for."""

    error: DeployError


@dataclass(frozen=True)
class Back:
    """A host is in reach again, so many seconds after it was lost."""

    after_s: float


Told = str | DeployError | Away | Back
"""A line of a process, or why no more will come, or what became of the way to its host."""


class Listener(Protocol):
    """Who is told; all of it from any thread."""

    patience_s: float

    def tell(self, host: str, told: Told) -> None:
        """Take what is new of a host."""

    def wait(self, seconds: float) -> bool:
        """Wait before trying again; False if nobody watches any more."""

    def endures(self, host: str) -> bool:
        """Whether the campaign goes on without that host, so that it is looked for until the campaign is over."""


@dataclass
class Follower:
    """Starts or finds a process and tells all that it says.

    `order`: start it first; `pause_s`: start it again, after so many seconds; neither: it is there. `seen` is the
    number of the last event that came.
    """

    worker: Worker
    names: tuple[str, ...]
    listener: Listener
    order: Order | None = None
    pause_s: float | None = None
    seen: int = -1
    _begun: bool = False
    """A line has come: a start that was asked for is done."""

    def run(self) -> None:
        """Follow it to its end, or until nobody watches any more."""
        if self.pause_s is not None and not (self.listener.wait(self.pause_s) and self._endures):
            return
        try:
            self._go()
        except ConnectionLost as lost:
            self._return(lost)
        except DeployError as error:
            if self._endures and not self._is_final(error):
                self._return(error)
            else:
                self._tell(error)

    @property
    def _endures(self) -> bool:
        return self.listener.endures(self.worker.host)

    def _tell(self, told: Told) -> None:
        self.listener.tell(self.worker.host, told)

    def _go(self) -> None:
        """Do the one command that starts the process, where that is asked for, and tells what it says."""
        order, self.order = self.order, None  # a start whose connection is lost is found by watching
        if order is not None:
            self.worker.run(order, self.names, self._take)
        elif self.pause_s is not None and not self._begun:
            self.worker.again(self.names, self._take, after=self.seen)
        else:
            self.worker.watch(self.names, self._take, after=self.seen)

    def _return(self, lost: DeployError) -> None:
        """Connect again and again, until the patience is over; the last reason is the one that counts."""
        since, wait_s = time.monotonic(), _FIRST_WAIT_S
        if self.listener.wait(0):
            self._tell(Away(lost))
        while self.listener.wait(wait_s) and (self._endures or time.monotonic() < since + self.listener.patience_s):
            try:
                self.worker.reach()
                self._tell(Back(time.monotonic() - since))
                self._go()
            except ConnectionLost as error:
                lost, since, wait_s = error, time.monotonic(), _FIRST_WAIT_S
                self._tell(Away(lost))
            except HostError as error:
                lost, wait_s = error, min(2 * wait_s, self._longest_wait_s(since))
                if self._is_final(error):
                    break
            else:
                return
        self._tell(lost)

    def _longest_wait_s(self, since: float) -> float:
        return _LONGEST_WAIT_S if time.monotonic() < since + self.listener.patience_s else _LATER_WAIT_S

    def _is_final(self, error: DeployError) -> bool:
        """Whether trying again is of no use: a verb has refused, or nobody can wait for a host to become whole."""
        if isinstance(error, CommandFailed) and error.status == _REFUSED:
            return True
        return not self._endures and not (isinstance(error, HostError) and error.step == "connect")

    def _take(self, line: str) -> None:
        self._begun = True
        with suppress(msgspec.MsgspecError):
            self.seen = parse_line(line.encode())[0].seq
        self._tell(line)
