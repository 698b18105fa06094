import importlib
import os
import warnings

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # flwr reads it when first imported
with warnings.catch_warnings():
    # flwr 1.41 pins typer below 0.21, which uses names that click 8.5 deprecates.
    warnings.filterwarnings("ignore", r"'click\.", DeprecationWarning)
    importlib.import_module("flwr.app")

from collections.abc import Iterator

import pytest
from flwr.supercore.task_identity import TaskIdentity

from flcommon import flower
from flcommon.eventlog import Moment, now
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
    before = [getattr(TaskIdentity, name) for name in names]
    flower.set_identity(5, flower.SERVER_NODE_ID)
    yield
    for name, value in zip(names, before, strict=True):
        setattr(TaskIdentity, name, value)
