"""Holds the experiment between two rounds for as long as a watching controller pulls the logs, and says how long."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from flcommon import quiet
from flcommon.eventlog import EventLog, Moment, now
from flcommon.events import Paused, Resumed

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE_S = 30.0
"""A controller that takes longer than this is not waited for."""
_LOOK_S = 0.005


@dataclass
class Quiet:
    """The pauses of one campaign: `every_s` seconds apart at least, none without a watcher; 0 means never.

    A watcher that let a pause run out is not waited for again: a laptop that sleeps holds its connection for a quarter
    of an hour. One that comes later is.
    """

    directory: Path
    log: EventLog
    every_s: float
    patience_s: float = PATIENCE_S
    _number: int = 0
    _given_up_s: float = 0.0
    _last: float = field(default_factory=time.monotonic)

    def between(self, trial: int, number: int, since: Moment) -> Moment:
        """Pause after round `number` of a trial if it is time; return the moment from which on time counts again."""
        if not self.every_s or time.monotonic() - self._last < self.every_s:
            return since
        if not quiet.is_watched(self.directory, self._given_up_s):
            return since
        self._number += 1
        with quiet.paused(self.directory, self._number):
            self.log.write(Paused(trial=trial, round=number, number=self._number), since)
            by = self._wait()
        self._last = time.monotonic()
        at = now()
        over = Resumed(trial=trial, round=number, number=self._number, duration_s=since.until_s(at), by=by)
        return self.log.write(over, at)

    def _wait(self) -> Literal["controller", "unwatched", "timeout"]:
        deadline = time.monotonic() + self.patience_s
        while time.monotonic() < deadline:
            if quiet.may_resume(self.directory, self._number):
                return "controller"
            if not quiet.is_watched(self.directory):
                return "unwatched"
            time.sleep(_LOOK_S)
        self._given_up_s = time.time()
        return "timeout"
