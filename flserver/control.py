"""Control rounds: before one begins, and after it has ended, all clients are told whether to inject."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flcommon.eventlog import EventLog, Moment, now
from flcommon.events import Switched

if TYPE_CHECKING:
    from flcommon.job import ServerTrial
    from flserver.roster import Roster

SWITCH_TIMEOUT_S = 60.0


class Control:
    """The control rounds of one trial. Switching takes place between rounds, and counts in none of them."""

    def __init__(self, trial: ServerTrial, roster: Roster, log: EventLog) -> None:
        self._trial = trial
        self._roster = roster
        self._log = log
        self._inject = True

    def is_control(self, number: int) -> bool:
        """Whether nothing is injected into this round."""
        return self._trial.is_control(number)

    def enter(self, number: int, since: Moment) -> Moment:
        """Switch if this round is of another kind than the one before; return from when on time counts again.

        Raises ServerError if a client does not say that it has.
        """
        inject = not self.is_control(number)
        if inject == self._inject:
            return since
        self._inject = inject
        self._roster.switch(self._trial.index, number, SWITCH_TIMEOUT_S, inject=inject)
        at = now()
        event = Switched(trial=self._trial.index, round=number, inject=inject, duration_s=since.until_s(at))
        return self._log.write(event, at)
