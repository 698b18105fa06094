"""Whole campaigns: the life cycle on a virtual lab, with real SSH, real processes and real gRPC."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import psutil
import pytest

from deploy.campaign import Request, up
from deploy.inventory import Inventory, VirtualLab
from deploy.manifest import Manifest
from deploy.playbook import load_playbook
from deploy.providers.virtual.lab import virtual_lab
from deploy.remote.ssh import connect
from deploy.view import Silent
from flcommon.eventlog import read_log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deploy.plan import Plan
    from flcommon.events import AnyEvent

MARK = "FIELDLAB_VIRTUAL_HOST"

PAYLOAD = """
playbook: small
app: flclient.apps.payload
probe: off
run_config: {payload-bytes: 1000}
rounds: 2
order: listed
delay: {at: before-upload, seconds: 0.05}
sweep: {delay.probability: [0, 1]}
seed: 7
"""


@dataclass
class Recorder(Silent):
    """A view that remembers, and that does something when an event of a kind comes."""

    kind: type | None = None
    action: Callable[[Recorder], None] | None = None
    directory: Path | None = None
    events: list[tuple[str, AnyEvent]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def run(self, directory: Path, plan: Plan) -> None:  # noqa: ARG002 - the view's signature
        self.directory = directory

    def event(self, host: str, event: AnyEvent) -> None:
        self.events.append((host, event))
        if self.action is not None and self.kind is not None and isinstance(event, self.kind):
            action, self.action = self.action, None
            action(self)

    def note(self, text: str) -> None:
        self.notes.append(text)


@dataclass(frozen=True)
class Bench:
    """A virtual lab, of two clients unless a test says otherwise, that a test may bend before the campaign sees it.

    Its runs go below `tmp_path`.
    """

    tmp_path: Path

    def up(
        self,
        view: Recorder,
        playbook: str = PAYLOAD,
        bend: Callable[[Inventory], Inventory] = lambda inventory: inventory,
        clients: int = 2,
    ) -> None:
        file = self.tmp_path / "playbook.yaml"
        file.write_text(playbook)
        up(Request(self._lab(bend, clients), load_playbook(file), self.tmp_path / "runs", connect), view)

    def manifest(self, view: Recorder) -> Manifest:
        assert view.directory is not None
        return msgspec.json.decode((view.directory / "manifest.json").read_bytes(), type=Manifest)

    def log(self, view: Recorder, host: str) -> list[AnyEvent]:
        assert view.directory is not None
        return [event for _, event in read_log(view.directory / "raw" / host / "events.jsonl").events]

    @contextlib.contextmanager
    def _lab(self, bend: Callable[[Inventory], Inventory], clients: int) -> Iterator[Inventory]:
        lab = VirtualLab(file=Path("lab.yaml"), lab="bench", playbook=None, clients=clients)
        with virtual_lab(lab) as inventory:
            yield bend(inventory)


def marked() -> dict[int, str]:
    """Return the processes of any virtual host that are alive, with the module that they run."""
    found = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if MARK in process.environ() and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = " ".join(process.cmdline())
    return found


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Give a lab, and see that no process of its hosts outlives the test."""
    before = set(marked())
    yield Bench(tmp_path)
    left = {pid: line for pid, line in marked().items() if pid not in before}
    assert not left, f"left running: {left}"


@pytest.fixture
def recorder() -> type[Recorder]:
    return Recorder


@pytest.fixture
def pid_of() -> Callable[[str], int]:
    """Return the pid of the worker (flserver or flclient) of a host in the virtual lab that runs now."""

    def find(host: str) -> int:
        own = [
            pid
            for pid, line in marked().items()
            if line.endswith(f"/{host}/job.json") and psutil.Process(pid).uids().real == os.getuid()
        ]
        assert len(own) == 1, own
        return own[0]

    return find
