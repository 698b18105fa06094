"""What the hosts' logs say that they should not have had to say, each thing once and counted."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from deploy.troubles import app_raised, losses, refused
from flcommon.events import AppRaised, Failed, JobAccepted, Refused, ReplyReceived

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from flcommon.eventlog import Reading
    from flcommon.events import AnyEvent

    Readings = Mapping[str, Reading]


def complaints(run: Path, campaign: str, host: str, readings: Readings) -> Iterator[str]:
    """Yield sentences about what one host wrote; what its fellows wrote already is not said again."""
    told = [event for _, event in readings[host].events]
    starts = sum(isinstance(event, JobAccepted) for event in told)
    if starts > 1:
        yield f"its process was started again{f' {starts - 1} times' if starts > 1 + 1 else ''}"
    yield from losses(told)
    yield from _counted(run, host, told)
    yield from _replies(told, _raised(readings))
    for event in told:
        match event:
            case JobAccepted() if event.campaign != campaign:
                yield f"its log says campaign {event.campaign}, the manifest {campaign}"
            case Failed():
                yield f"{event.step}: {event.reason}"
            case _:
                pass


def _raised(readings: Readings) -> set[str]:
    """Return the instructions of which a client's own log says that the app raised."""
    found = (event for reading in readings.values() for _, event in reading.events)
    return {event.message for event in found if isinstance(event, AppRaised)}


def _counted(run: Path, host: str, told: list[AnyEvent]) -> Iterator[str]:
    raised = Counter(event.error for event in told if isinstance(event, AppRaised))
    first = {event.error: event for event in reversed(told) if isinstance(event, AppRaised)}
    for error, times in raised.items():
        yield app_raised(first[error], run, host, times)
    refusals: Counter[tuple[str, str | None]] = Counter()
    for event in told:
        if isinstance(event, Refused):
            refusals[event.reason, event.peer] += event.count
    for (reason, peer), times in refusals.items():
        yield refused(reason, peer, times)


def _replies(told: list[AnyEvent], raised: set[str]) -> Iterator[str]:
    """Yield the errors that clients replied, but for those of which a client's log says more."""
    replies = [event for event in told if isinstance(event, ReplyReceived) and event.error is not None]
    unsaid = [event for event in replies if event.message not in raised]
    times = Counter((event.client, event.error) for event in unsaid)
    for event in unsaid:
        count = times.pop((event.client, event.error), 0)
        if count:
            more = f" (the first of {count} times)" if count > 1 else ""
            yield f"trial {event.trial}, round {event.round}: {event.client} replied: {event.error}{more}"
