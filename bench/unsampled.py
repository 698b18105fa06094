"""Runs flserver or flclient with samples in every other trial only, so that their cost can be measured.

    python bench/unsampled.py flserver|flclient JOB.json

In trials of an odd number neither connections nor the machine are looked at.
"""

from __future__ import annotations

import runpy
import sys
from typing import TYPE_CHECKING

from flcommon.eventlog import EventLog, Moment
from flcommon.events import Event, TrialOpened
from flcommon.sampling import Sampler

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    _Entries = Sequence[tuple[Event, Moment]]


class _Switch:
    """Follows the trials in the log, and holds samples back in those of an odd number."""

    def __init__(self) -> None:
        self.off = False

    def following(self, write: Callable[[EventLog, Event, Moment | None], Moment]) -> Callable[..., Moment]:
        def written(log: EventLog, event: Event, at: Moment | None = None) -> Moment:
            if isinstance(event, TrialOpened):
                self.off = event.trial % 2 == 1
            return write(log, event, at)

        return written

    def sampling(self, sampled: Callable[[Sampler, str, str | None], _Entries]) -> Callable[..., _Entries]:
        def maybe(sampler: Sampler, client: str, message: str | None) -> _Entries:
            return () if self.off else sampled(sampler, client, message)

        return maybe

    def ticking(self, tick: Callable[[Sampler], None]) -> Callable[[Sampler], None]:
        def maybe(sampler: Sampler) -> None:
            if not self.off:
                tick(sampler)

        return maybe


if __name__ == "__main__":
    switch = _Switch()
    EventLog.write = switch.following(EventLog.write)  # type: ignore[method-assign]
    # There is no other way in than from inside.
    Sampler._sampled = switch.sampling(Sampler._sampled)  # type: ignore[method-assign]  # noqa: SLF001
    Sampler._tick = switch.ticking(Sampler._tick)  # type: ignore[method-assign]  # noqa: SLF001
    module = sys.argv[1]
    sys.argv = sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
