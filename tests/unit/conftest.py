"""What unit tests share: a log in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flcommon.eventlog import Moment, now

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flcommon.events import Event


class ListLog:
    """Stands for an EventLog: keeps the events in a list, each with its moment."""

    def __init__(self) -> None:
        self.entries: list[tuple[Moment, Event]] = []

    def write(self, event: Event, at: Moment | None = None) -> Moment:
        moment = at or now()
        self.entries.append((moment, event))
        return moment

    def write_all(self, entries: Sequence[tuple[Event, Moment]]) -> None:
        self.entries += [(moment, event) for event, moment in entries]

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for _, event in self.entries if isinstance(event, kind)]


@pytest.fixture
def log() -> ListLog:
    return ListLog()


@pytest.fixture(autouse=True)
def _task_identity(flower_identity: None) -> None:
    """Let every unit test be flwr's server process."""
