"""Talks to every host of a campaign while it runs: compares clocks, and gives the controller's word that it is there.

Each exchange becomes a line of the run directory's `clocks.jsonl`; what shapes a link on a host goes by the word
(`flcommon.lease`). A conversation that fails disturbs nothing: it is noted once, and taken up again.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from deploy.clockline import CLOCKS_FILE, ClockLine
from deploy.errors import CommandFailed, ConnectionLost, HostError
from deploy.pulse import Pace, Pulse, Stamp
from flcommon import events
from flcommon.conversing import LEAVE
from flcommon.lease import RENEW_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import FileIO
    from pathlib import Path

    from deploy.custody import Campaign
    from deploy.rundir import RunDirectory
    from deploy.watch import CampaignWatch
    from deploy.worker import Worker

STEP = "clocks"
BOUNDARIES = (events.CampaignStarted, events.TrialEnded)
"""Where clocks have to be known well: before the first trial, and between and after trials."""
PATIENCE_S = 5.0
"""How long the last words may take altogether."""
_FIRST_WAIT_S = 1.0
_LONGEST_WAIT_S = 300.0
"""A host that refuses is asked again more and more seldom: each time costs it the start of a Python."""


@contextmanager
def conversing(campaign: Campaign, run: RunDirectory, watch: CampaignWatch, pace: Pace | None = None) -> Iterator[None]:
    """Talk to all hosts of a campaign for the length of a with-block; raises nothing of its own.

    At its end each host is told whether the campaign is `left`; what `watch` hears of trials sets the pace.
    """
    book = Book(run.path / CLOCKS_FILE, watch.on_note)
    talks = [Conversation(worker, book, pace or Pace()) for worker in campaign.workers.values()]
    heard = watch.on_event

    def on_event(host: str, event: events.AnyEvent) -> None:
        if isinstance(event, BOUNDARIES):
            for talk in talks:
                talk.burst()
        heard(host, event)

    watch.on_event = on_event
    try:
        for talk in talks:
            talk.begin()
        yield
    finally:
        watch.on_event = heard
        for talk in talks:
            talk.end(leave=campaign.left)
        deadline = time.monotonic() + PATIENCE_S
        for talk in talks:
            talk.join(max(0.0, deadline - time.monotonic()))
        book.close()
        if campaign.left:
            _note_untold(campaign, [talk.host for talk in talks if not talk.told], watch.on_note)


def _note_untold(campaign: Campaign, hosts: list[str], note: Callable[[str], None]) -> None:
    """Say whose link will go off, because it was not told that the campaign goes on without a controller."""
    for host in hosts:
        shaping = campaign.manifest.shaping.get(host)
        if shaping is not None and shaping.layer == "kernel":
            note(
                f"{host}: {STEP}: not told that the campaign is left running: its link is taken off after"
                f" {shaping.lease_s:g} s without a controller, until one attaches"
            )


class Conversation:
    """The conversation with one host, over as many connections as it takes."""

    def __init__(self, worker: Worker, book: Book, pace: Pace) -> None:
        self._worker, self._book, self._pace = worker, book, pace
        self._lock, self._over = threading.Lock(), threading.Event()
        self._pulse = Pulse(pace)
        self._noted, self._wait_s = False, _FIRST_WAIT_S
        # A daemon: who is interrupted while waiting for its end shall not be held up by it once more.
        self._thread = threading.Thread(target=self._run, name=f"clocks-{self.host}", daemon=True)
        self.told = False
        """The host knows that the campaign is left running."""

    @property
    def host(self) -> str:
        """The host's name in the inventory."""
        return self._worker.host

    def begin(self) -> None:
        """Begin to talk, in a thread of its own."""
        self._thread.start()

    def burst(self) -> None:
        """Compare clocks often for a moment."""
        self._pulse.burst()

    def end(self, *, leave: bool) -> None:
        """Say the last words, from now on."""
        with self._lock:
            self._over.set()
            self._pulse.end(leave=leave)

    def join(self, timeout_s: float) -> None:
        """Wait for the end; a host that does not answer any more is let go when its connection is closed."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        self._pulse.close()

    def _run(self) -> None:
        while True:
            longest_s = RENEW_S
            try:
                self._worker.converse(self._pulse, self._hear)
            except HostError as error:
                if not _is_away(error):
                    longest_s = _LONGEST_WAIT_S
                    self._note(error)
            self._wait_s = min(self._wait_s, longest_s)
            with self._lock:
                if self._over.is_set():
                    return
                self._pulse = Pulse(self._pace)
            if self._over.wait(self._wait_s):
                return
            self._wait_s *= 2

    def _hear(self, line: str) -> None:
        back = Stamp.now()
        if line.encode() == LEAVE:
            self.told = True
            return
        try:
            number, *moments = (int(word) for word in line.split())
            received, answered = Stamp(*moments[:2]), Stamp(*moments[2:])
        except (ValueError, TypeError) as error:
            raise HostError(self.host, STEP, f"an answer that cannot be understood: {line[:80]!r}") from error
        sent = self._pulse.answered(number)
        if sent is not None:
            self._wait_s = _FIRST_WAIT_S
            self._book.add(_line(self.host, sent, (received, answered), back))

    def _note(self, error: HostError) -> None:
        """Say once that a host does not take part in this."""
        if not self._noted and not self._over.is_set():
            self._noted = True
            said = error.briefly if isinstance(error, CommandFailed) else str(error)
            self._book.note(f"{said}; its clock is not compared over SSH until it answers")


class Book:
    """The file of exchanges, into which many threads write; one that cannot be written is given up, and noted."""

    def __init__(self, path: Path, note: Callable[[str], None]) -> None:
        self._path, self.note = path, note
        self._lock = threading.Lock()
        self._file: FileIO | None = None
        with self._giving_up():
            self._file = path.open("ab", buffering=0)

    def add(self, line: ClockLine) -> None:
        """Write one exchange, in one piece."""
        with self._lock, self._giving_up():
            if self._file is not None:
                self._file.write(msgspec.json.encode(line) + b"\n")

    def close(self) -> None:
        """Write no more."""
        with self._lock:
            if self._file is not None:
                self._file.close()
            self._file = None

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if self._file is not None:
                self._file.close()
            self._file = None
            self.note(f"{self._path}: cannot be written, and holds no clocks from here on: {error.strerror}")


def _line(host: str, sent: Stamp, there: tuple[Stamp, Stamp], back: Stamp) -> ClockLine:
    received, answered = there
    return ClockLine(
        host=host,
        sent_mono_ns=sent.mono_ns,
        sent_wall_ns=sent.wall_ns,
        received_mono_ns=received.mono_ns,
        received_wall_ns=received.wall_ns,
        answered_mono_ns=answered.mono_ns,
        answered_wall_ns=answered.wall_ns,
        back_mono_ns=back.mono_ns,
        back_wall_ns=back.wall_ns,
    )


def _is_away(error: HostError) -> bool:
    """Whether a host is out of reach: the watch says so."""
    return isinstance(error, ConnectionLost) or error.step == "connect"
