"""Watches the processes of a campaign until all have ended, and says what went wrong first if something did."""

from __future__ import annotations

import signal
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, TypeVar

import msgspec

from deploy.errors import CampaignError, ConnectionLost, DeployError, HostError
from flcommon import events
from flcommon.eventlog import parse_line
from flcommon.process import Exit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from deploy.worker import Worker
    from flcommon.process import Order

E = TypeVar("E", bound=events.Event)


def names_of(*kinds: type[events.Event]) -> tuple[str, ...]:
    """Return what the logs call these events."""
    return tuple(str(kind.__struct_config__.tag) for kind in kinds)


SERVER_EVENTS = names_of(
    events.Listening,
    events.Ready,
    events.ClientJoined,
    events.ClientLeft,
    events.CampaignStarted,
    events.TrialOpened,
    events.RoundStarted,
    events.RoundEnded,
    events.Paused,
    events.Metrics,
    events.TrialEnded,
    events.CampaignEnded,
    events.Failed,
)
CLIENT_EVENTS = names_of(events.Ready, events.Failed)
AFTERMATH_S = 3.0
"""How long the others get to say what they saw, once one process has failed."""
PATIENCE_S = 120.0
"""How long a host may be out of reach before it counts as lost: a laptop wakes up, a Wi-Fi comes back, a Pi boots."""
_LONGEST_WAIT_S = 8.0


@dataclass
class Watched:
    """What is known of one process."""

    failed: events.Failed | None = None
    exit: Exit | None = None
    lost: DeployError | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will come from it."""
        return self.exit is not None or self.lost is not None

    @property
    def bad(self) -> bool:
        """Whether it failed."""
        return self.lost is not None or (self.exit is not None and self.exit.status != 0)

    @property
    def silent(self) -> bool:
        """Whether it ended badly without a word of its own, as a killed process does."""
        return self.exit is not None and self.exit.status != 0 and self.failed is None


@dataclass
class CampaignWatch:
    """Follows processes by one thread each; `on_event` gets (host, event) in the caller's thread.

    A connection that is lost is made again for `patience_s`, and nothing that happened meanwhile is missed: the
    campaign needs no controller.
    """

    on_event: Callable[[str, events.AnyEvent], None]
    hosts: dict[str, Watched] = field(default_factory=dict)
    on_note: Callable[[str], None] = lambda _text: None
    on_pause: Callable[[events.Paused], None] = lambda _paused: None
    patience_s: float = PATIENCE_S
    aftermath_s: float = AFTERMATH_S
    _lines: SimpleQueue[tuple[str, str | DeployError]] = field(default_factory=SimpleQueue)
    _threads: list[threading.Thread] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _last: str = ""

    def follow(self, worker: Worker, names: Iterable[str], order: Order | None = None) -> None:
        """Begin to watch a process; with an `order`, start it first."""
        self.hosts[worker.host] = Watched()
        follower = _Follower(worker, tuple(names), order, self)
        thread = threading.Thread(target=follower.run, name=f"watch-{worker.host}")
        self._threads.append(thread)
        thread.start()

    def until(self, kind: type[E]) -> E:
        """Return the first event of a kind; raises CampaignError if a process fails before that."""
        while True:
            event = self._next(None)
            self._check()
            if isinstance(event, kind):
                return event

    def until_ended(self) -> None:
        """Return when every process has ended well; raises CampaignError if one did not."""
        while not self._all_ended():
            self._next(None)
            self._check()

    def has_ended(self, host: str) -> bool:
        """Whether the host's process was seen to end; False also for one that was never followed."""
        return host in self.hosts and self.hosts[host].exit is not None

    def join(self) -> None:
        """Wait for the threads, whose processes have ended.

        Not for ever: one that watches a process which could not be stopped ends when its connection is closed.
        """
        self._over.set()
        deadline = time.monotonic() + AFTERMATH_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def leave(self) -> None:
        """Let the processes be: the threads end when their connections are closed."""
        self._over.set()

    def tell(self, host: str, told: str | DeployError) -> None:
        """Take a line of a process, or the reason why no more will come; from any thread."""
        self._lines.put((host, told))

    def wait(self, seconds: float) -> bool:
        """Wait before trying again; False if nobody watches any more."""
        return not self._over.wait(seconds)

    def _all_ended(self) -> bool:
        return all(one.ended for one in self.hosts.values())

    def _next(self, timeout_s: float | None) -> events.AnyEvent | None:
        """Take in what one host says next; returns it if it is an event, raises queue.Empty when the time is up."""
        host, told = self._lines.get(timeout=timeout_s)
        one = self.hosts[host]
        if isinstance(told, DeployError):
            one.lost = told
            return None
        try:
            _, event = parse_line(told.encode())
        except msgspec.MsgspecError:
            self._note_exit(host, told)
            return None
        if isinstance(event, events.Failed):
            one.failed = event
        self._last = _where(event) or self._last
        self.on_event(host, event)
        if isinstance(event, events.Paused):
            self.on_pause(event)
        return event

    def _note_exit(self, host: str, told: str) -> None:
        try:
            self.hosts[host].exit = msgspec.json.decode(told, type=Exit)
        except msgspec.MsgspecError:
            self.hosts[host].lost = HostError(host, "watch", f"a line that cannot be understood: {told[:80]!r}")

    def _check(self) -> None:
        """Raise the cause if anything has failed, after hearing the others out: the first to speak is not it always."""
        if not any(one.bad for one in self.hosts.values()):
            return
        # One deadline for all: a campaign that goes on without the failed one always has something to say.
        deadline = time.monotonic() + self.aftermath_s
        with suppress(Empty):
            while not self._all_ended() and (left_s := deadline - time.monotonic()) > 0:
                self._next(left_s)
        raise self._cause()

    def _cause(self) -> DeployError:
        """Return the most telling error: a process killed without a word, a client's own, the server's, a lost host."""
        clients = [host for host in self.hosts if host != next(iter(self.hosts))]
        ordered = [*clients, *(host for host in self.hosts if host not in clients)]
        for host in ordered:
            if self.hosts[host].silent:
                return CampaignError(host, "run", f"{_ending(self.hosts[host].exit)}{self._when()}")
        said = [(host, failed) for host in ordered if (failed := self.hosts[host].failed) is not None]
        own = [(host, failed) for host, failed in said if not _echo(failed)]
        lost = [one.lost for one in self.hosts.values() if one.lost is not None]
        if lost and not own:
            return lost[0]
        host, failed = (own or said)[0]
        return CampaignError(host, failed.step, f"{failed.reason}{self._when()}")

    def _when(self) -> str:
        return f" ({self._last})" if self._last else ""


@dataclass
class _Follower:
    """Watches one process from a thread of its own, over as many connections as it takes."""

    worker: Worker
    names: tuple[str, ...]
    order: Order | None
    watch: CampaignWatch
    seen: int = -1
    """The number of the last event that came."""

    def run(self) -> None:
        try:
            self._start()
        except ConnectionLost as lost:
            self._return(lost)
        except DeployError as error:
            self.watch.tell(self.worker.host, error)

    def _start(self) -> None:
        if self.order is None:
            self.worker.watch(self.names, self._take)
        else:
            self.worker.run(self.order, self.names, self._take)

    def _return(self, lost: DeployError) -> None:
        """Connect again and again, until the patience is over; the last reason is the one that counts."""
        deadline, wait_s = time.monotonic() + self.watch.patience_s, 0.5
        if self.watch.wait(0):
            self.watch.on_note(f"{lost}; trying again")
        while time.monotonic() < deadline and self.watch.wait(wait_s):
            try:
                self.worker.watch(self.names, self._take, after=self.seen)
            except ConnectionLost as error:
                lost, deadline, wait_s = error, time.monotonic() + self.watch.patience_s, 0.5
            except HostError as error:
                lost, wait_s = error, min(2 * wait_s, _LONGEST_WAIT_S)
                if error.step != "connect":
                    break
            else:
                return
        self.watch.tell(self.worker.host, lost)

    def _take(self, line: str) -> None:
        with suppress(msgspec.MsgspecError):
            self.seen = max(self.seen, parse_line(line.encode())[0].seq)
        self.watch.tell(self.worker.host, line)


def _echo(failed: events.Failed) -> bool:
    """Whether a client only repeats that the campaign is over."""
    return failed.reason.startswith("the server ended the campaign")


def _where(event: events.AnyEvent) -> str:
    match event:
        case events.RoundStarted():
            return f"trial {event.trial}, round {event.round}"
        case events.TrialOpened():
            return f"trial {event.trial}"
    return ""


def _ending(status: Exit | None) -> str:
    """Say how a process ended that said nothing itself."""
    number = status.status if status else None
    if number is None:
        return "the process is gone and left no exit status: killed with its supervisor, or the disk is full"
    if number < 0:
        return f"the process was killed by {signal.Signals(-number).name}"
    return f"the process ended with status {number}"
