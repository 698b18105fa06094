"""Runs flserver or flclient with a log that is silent in every other trial, so that the log's cost can be measured.

    python bench/muted.py flserver|flclient JOB.json

In trials of an odd number all moments are taken as ever, and nothing is written but when a round began and ended.
"""

from __future__ import annotations

import runpy
import sys
from typing import TYPE_CHECKING

from flcommon.eventlog import EventLog, Moment, now
from flcommon.events import Event, RoundEnded, RoundStarted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    _Entries = Sequence[tuple[Event, Moment]]


def _mute_all(write: Callable[[EventLog, _Entries], None]) -> Callable[[EventLog, _Entries], None]:
    def muted(log: EventLog, entries: _Entries) -> None:
        if not any(_silent(event) for event, _ in entries):
            write(log, entries)

    return muted


def _mute(write: Callable[[EventLog, Event, Moment | None], Moment]) -> Callable[..., Moment]:
    def muted(log: EventLog, event: Event, at: Moment | None = None) -> Moment:
        return at or now() if _silent(event) else write(log, event, at)

    return muted


def _silent(event: Event) -> bool:
    return bool(getattr(event, "trial", 0) % 2) and not isinstance(event, RoundStarted | RoundEnded)


if __name__ == "__main__":
    EventLog.write_all = _mute_all(EventLog.write_all)  # type: ignore[method-assign]
    EventLog.write = _mute(EventLog.write)  # type: ignore[method-assign]
    module = sys.argv[1]
    sys.argv = sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
