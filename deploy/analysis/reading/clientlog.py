"""What one client's log says about its training: compute time and injected delay of each instruction.

A client that is started again gets its unanswered instruction once more: what counts is how its last process did it,
and no duration runs from one process to the next, which may have another clock.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from deploy.analysis.reading.rows import ClientRound
from flcommon.eventlog import processes
from flcommon.events import ComputeEnded, ComputeStarted, Delayed, is_training

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flcommon.events import AnyEvent, Stamp

TrialRound = tuple[int, int]
"""(trial, round)"""


@dataclass
class _Work:
    """One instruction, as far as one process's part of the log has told."""

    client: str
    process: int
    started_ns: int | None = None
    ended_ns: int | None = None
    delay: Delayed | None = None

    @property
    def compute_s(self) -> float | None:
        known = self.started_ns is not None and self.ended_ns is not None
        return ((self.ended_ns or 0) - (self.started_ns or 0)) / 1e9 if known else None


def client_rounds(events: Iterable[tuple[Stamp, AnyEvent]]) -> dict[TrialRound, list[ClientRound]]:
    """Return the training that a client's events tell of, by (trial, round): one row for each client in it.

    An app may send a client several `train` messages a round, a secure aggregation always does: their times add up.
    """
    works: dict[tuple[int, int, str], _Work] = {}
    for process, told in enumerate(processes(events)):
        for stamp, event in told:
            if isinstance(event, ComputeStarted | ComputeEnded | Delayed) and is_training(event.kind):
                key = (event.trial, event.round, event.message)
                if key not in works or works[key].process != process:
                    works[key] = _Work(event.client, process)
                _note(works[key], stamp.mono_ns, event)
    rounds: defaultdict[TrialRound, defaultdict[str, list[_Work]]] = defaultdict(lambda: defaultdict(list))
    for (trial, number, _message), work in works.items():
        rounds[trial, number][work.client].append(work)
    return {place: [_row(*work) for work in clients.items()] for place, clients in rounds.items()}


def _row(client: str, works: list[_Work]) -> ClientRound:
    delays = [work.delay for work in works if work.delay is not None]
    known = [work.compute_s for work in works if work.compute_s is not None]
    return ClientRound(
        client=client,
        compute_s=sum(known) if len(known) == len(works) else None,
        requested_s=sum(delay.requested_s for delay in delays) if delays else None,
        measured_s=sum(delay.measured_s for delay in delays) if delays else None,
    )


def _note(work: _Work, mono_ns: int, event: ComputeStarted | ComputeEnded | Delayed) -> None:
    match event:
        case ComputeStarted():
            work.started_ns = mono_ns
        case ComputeEnded():
            work.ended_ns = mono_ns
        case Delayed():
            work.delay = event
