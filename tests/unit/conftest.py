"""What unit tests share: a log in memory, and flwr's idea of whose process this is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flcommon import flower
from flcommon.eventlog import Moment, now

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flcommon.events import Event


class ListLog:
    """Stands for an EventLog: keeps the events in a list, each with its moment."""

    def __init__(self) -> None:
        self.entries: list[tuple[Moment, Event]] = []

    def write(self, event: Event, at: Moment | None = None) -> Moment:
        moment = at or now()
        self.entries.append((moment, event))
        return moment

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for _, event in self.entries if isinstance(event, kind)]


@pytest.fixture
def log() -> ListLog:
    return ListLog()


@pytest.fixture(autouse=True)
def _task_identity() -> Iterator[None]:
    """Be run 5, node 1, as flserver is in trial 3; put back what was said before."""
    names = ("_run_id", "_task_id", "_node_id")
    before = [getattr(flower.TaskIdentity, name) for name in names]
    flower.set_identity(5, flower.SERVER_NODE_ID)
    yield
    for name, value in zip(names, before, strict=True):
        setattr(flower.TaskIdentity, name, value)
