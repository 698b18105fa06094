"""What the hosts' logs say that they should not have had to say, each thing once and counted."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import polars as pl

from deploy.troubles import app_raised, losses, refused
from flcommon.events import SCHEMA_VERSION, AppRaised, Failed, JobAccepted, Refused, ReplyReceived

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from deploy.analysis.reading.logs import Logs
    from flcommon.events import AnyEvent


def complaints(run: Path, campaign: str, host: str, logs: Logs) -> Iterator[str]:
    """Yield sentences about what one host wrote; what its fellows wrote already is not said again."""
    told = [event for _, event in logs.told(host)]
    starts = sum(isinstance(event, JobAccepted) for event in told)
    if starts > 1:
        yield f"its process was started again{f' {starts - 1} times' if starts > 1 + 1 else ''}"
    versions = {stamp.v for stamp, event in logs.told(host) if isinstance(event, JobAccepted)} - {SCHEMA_VERSION}
    if versions:
        found = f"its log has schema {min(versions)}, this version reads {SCHEMA_VERSION}"
        yield f"{found}: what stands in it may mean something else"
    yield from losses(told)
    yield from _counted(run, host, told)
    yield from _replies(logs, host)
    for event in told:
        match event:
            case JobAccepted() if event.campaign != campaign:
                yield f"its log says campaign {event.campaign}, the manifest {campaign}"
            case Failed():
                yield f"{event.step}: {event.reason}"
            case _:
                pass


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


def _replies(logs: Logs, host: str) -> Iterator[str]:
    """Yield the errors that clients replied, but for those of which a client's log says more."""
    own = [process.index for process in logs.processes_of[host]]
    replies = logs.of(ReplyReceived).filter(pl.col("error").is_not_null() & pl.col("process").is_in(own))
    if not replies.height:
        return
    told = (event for process in logs.processes for _, event in process.told)
    raised = {event.message for event in told if isinstance(event, AppRaised)}
    unsaid = replies.filter(~pl.col("message").is_in(raised))
    first = unsaid.group_by("client", "error", maintain_order=True).agg(
        pl.col("trial", "round").first(), pl.len().alias("count")
    )
    for client, error, trial, number, count in first.iter_rows():
        more = f" (the first of {count} times)" if count > 1 else ""
        yield f"trial {trial}, round {number}: {client} replied: {error}{more}"
