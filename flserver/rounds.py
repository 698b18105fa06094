"""Where one round ends and the next begins: rounds follow each other without a gap, so their times add up.

Pauses for pulling logs lie between rounds and count nowhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flwr.app import ConfigRecord

from flcommon.eventlog import EventLog, Moment, now
from flcommon.events import PhaseEnded, RoundEnded, RoundStarted

if TYPE_CHECKING:
    from flwr.app import Message

    from flserver.control import Control
    from flserver.quiet import Quiet


BEFORE_ROUNDS = "get_parameters"
"""The message by which Flower's older strategies ask a client for the initial model."""


def round_of(message: Message) -> int | None:
    """Return the round an instruction belongs to: Flower's `server-round`, else a numeric group id, else None.

    The request for an initial model comes before round 1.
    """
    if message.metadata.message_type == BEFORE_ROUNDS:
        return 0
    # Not `content.config_records`: it is a cycle that holds the content, arrays and all, until garbage is collected.
    for record in message.content.values():
        number = record.get("server-round") if isinstance(record, ConfigRecord) else None
        if isinstance(number, int):
            return number
    group = message.metadata.group_id
    return int(group) if group.isdecimal() else None


class Rounds:
    """The rounds of one trial. Round r lasts from the first sign of it until the first sign of round r + 1."""

    def __init__(self, log: EventLog, trial: int, quiet: Quiet | None = None, control: Control | None = None) -> None:
        self._log = log
        self._trial = trial
        self._quiet = quiet
        self._control = control
        self._paused_s = 0.0
        self._first: Moment | None = None
        self._started: Moment | None = None
        self._ended: Moment | None = None
        self.number = 0

    def enter(self, number: int | None) -> None:
        """Note a sign of round `number`; None means whatever round it is now (the first, if there was none)."""
        number = max(1, self.number) if number is None else number
        if number <= self.number:
            return
        at = now()
        self.leave(at)
        ended = at
        if self._quiet is not None and self.number:
            at = self._quiet.between(self._trial, self.number, at)
        if self._control is not None:
            at = self._control.enter(number, at)
        self._paused_s += ended.until_s(at) if self._first else 0.0
        self.number, self._started = number, at
        self._first = self._first or at
        control = self._control is not None and self._control.is_control(number)
        self._log.write(RoundStarted(trial=self._trial, round=number, control=control), at)

    def leave(self, at: Moment | None = None) -> None:
        """End the current round, if one is under way."""
        if self._started is None:
            return
        at = at or now()
        duration_s = self._started.until_s(at)
        self._started, self._ended = None, at
        self._log.write(RoundEnded(trial=self._trial, round=self.number, duration_s=duration_s), at)

    def phase(self, name: str, started: Moment) -> None:
        """Note the end of a part of the server's own work in the current round."""
        at = now()
        self._log.write(
            PhaseEnded(trial=self._trial, round=self.number, phase=name, duration_s=started.until_s(at)), at
        )

    @property
    def total_s(self) -> float:
        """Seconds from the start of the first round to the end of the last, without pauses."""
        return self._first.until_s(self._ended) - self._paused_s if self._first and self._ended else 0.0
