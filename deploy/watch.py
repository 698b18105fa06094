"""Watches the processes of a campaign: until all run, every one is needed; from then on, the server's decides.

Once the campaign runs, a client that dies is started again, a host that is out of reach is looked for, and both are
noted; the server, which waits for its clients for a while, says what becomes of the campaign.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, TypeVar

import msgspec

from deploy.errors import CommandFailed, DeployError, HostError
from deploy.follower import Away, Back, Follower
from deploy.watched import PAUSES_S, Watched, cause, is_echo, place_of
from flcommon import events
from flcommon.eventlog import parse_line
from flcommon.process import Exit

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from deploy.follower import Told
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
    events.ClientLost,
    events.ClientBack,
    events.ClientGivenUp,
    events.Refused,
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
CLIENT_EVENTS = names_of(events.Ready, events.AppRaised, events.Failed)
AFTERMATH_S = 3.0
"""How long the others get to say what they saw, or to end by themselves, once the process that decides has ended."""
PATIENCE_S = 120.0
"""How long the server's host may be out of reach before it counts as lost: a laptop wakes up, a Wi-Fi comes back."""


@dataclass
class CampaignWatch:
    """Follows processes by one thread each; `on_event` gets (host, event) in the caller's thread, as all `on_…` do.

    The first host that is followed is the server's. `running`: the campaign has begun, so that only its server is
    needed. A connection that is lost is made again for `patience_s`, that to a client of a campaign that runs for as
    long as it runs, and nothing that happened meanwhile is missed. `pauses_s` come before each time that a client is
    started again; none means never.
    """

    on_event: Callable[[str, events.AnyEvent], None]
    hosts: dict[str, Watched] = field(default_factory=dict)
    on_note: Callable[[str], None] = lambda _text: None
    on_pause: Callable[[events.Paused, Collection[str]], None] = lambda _paused, _away: None
    on_host: Callable[[str, str], None] = lambda _host, _state: None
    patience_s: float = PATIENCE_S
    aftermath_s: float = AFTERMATH_S
    pauses_s: tuple[float, ...] = PAUSES_S
    running: bool = False
    _followers: dict[str, Follower] = field(default_factory=dict)
    _lines: SimpleQueue[tuple[str, Told]] = field(default_factory=SimpleQueue)
    _threads: list[threading.Thread] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _last: str = ""
    _missing: dict[str, str] | None = None

    # --- for the life cycle ------------------------------------------------------------------------------------------

    def follow(self, worker: Worker, names: Iterable[str], order: Order | None = None) -> None:
        """Begin to watch a process; with an `order`, start it first."""
        self.hosts[worker.host] = Watched()
        self._begin(Follower(worker, tuple(names), self, order))

    def until(self, kind: type[E]) -> E:
        """Return the first event of a kind; raises CampaignError if a process that is needed fails before that."""
        while True:
            event = self._next(None)
            self._check()
            if isinstance(event, kind):
                return event

    def until_ended(self) -> None:
        """Return when the server has ended well, and its clients had a moment to do so too.

        Raises CampaignError if it did not; if a client fails before the campaign runs; if all have ended for good.
        """
        while not self._server.ended:
            self._next(None)
            self._check()
        self._hear_out()

    def has_ended(self, host: str) -> bool:
        """Whether the host's process was seen to end; False also for one that was never followed."""
        return host in self.hosts and self.hosts[host].exit is not None

    def missing(self) -> dict[str, str]:
        """Return which clients took no part any more when the campaign ended, or now if it has not, and why."""
        if self._missing is not None:
            return self._missing
        reasons = ((host, one.missing) for host, one in self._clients.items())
        return {host: reason for host, reason in reasons if reason is not None}

    def join(self) -> None:
        """Wait for the threads, whose processes have ended.

        Not for ever: one that watches a process which could not be stopped ends when its connection is closed.
        """
        self.leave()
        deadline = time.monotonic() + AFTERMATH_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def leave(self) -> None:
        """Let the processes be: the threads end when their connections are closed."""
        self._over.set()

    # --- deploy.follower.Listener ------------------------------------------------------------------------------------

    def tell(self, host: str, told: Told) -> None:
        """Take what is new of a host; from any thread."""
        self._lines.put((host, told))

    def wait(self, seconds: float) -> bool:
        """Wait before trying again; False if nobody watches any more."""
        return not self._over.wait(seconds)

    def endures(self, host: str) -> bool:
        """Whether the campaign runs, and goes on without that host."""
        return self.running and host in self._clients and not self._server.ended

    # --- own ---------------------------------------------------------------------------------------------------------

    @property
    def _server(self) -> Watched:
        return next(iter(self.hosts.values()))

    @property
    def _clients(self) -> dict[str, Watched]:
        return dict(list(self.hosts.items())[1:])

    def _begin(self, follower: Follower) -> None:
        host = follower.worker.host
        self._followers[host] = follower
        thread = threading.Thread(target=follower.run, name=f"watch-{host}")
        self._threads.append(thread)
        thread.start()

    def _next(self, timeout_s: float | None) -> events.AnyEvent | None:
        """Take in what one host says next; returns it if it is an event, raises queue.Empty when the time is up."""
        host, told = self._lines.get(timeout=timeout_s)
        one = self.hosts[host]
        match told:
            case Away():
                one.away = told.error
                self.on_host(host, "out of reach, looking for it")
                self.on_note(f"{told.error}; trying again")
            case Back():
                one.away = None
                self.on_host(host, f"in reach again after {told.after_s:.0f} s")
                self.on_note(f"{host}: watch: in reach again after {told.after_s:.0f} s")
            case DeployError():
                self._lose(host, told)
            case str():
                return self._take(host, told)
        return None

    def _take(self, host: str, line: str) -> events.AnyEvent | None:
        """Take in a line of a process: an event, or how it ended."""
        try:
            _, event = parse_line(line.encode())
        except msgspec.MsgspecError:
            self._note_exit(host, line)
            return None
        match event:
            case events.Ready():
                # A new process: what the one before it said is history.
                self.hosts[host].failed = self.hosts[host].before = None
            case events.Failed():
                self.hosts[host].failed = event
            case events.CampaignStarted():
                self.running = True
            case events.ClientLost(client=client, reason=reason) if client in self.hosts:
                self.hosts[client].gone = f"lost: {reason}"
            case events.ClientGivenUp(client=client, reason=reason) if client in self.hosts:
                self.hosts[client].gone = f"given up: {reason}"
            case events.ClientBack(client=client) if client in self.hosts:
                self.hosts[client].gone = None
            case _:
                self._last = place_of(event) or self._last
        self.on_event(host, event)
        if isinstance(event, events.Paused):
            self.on_pause(event, {name for name, one in self.hosts.items() if one.away or one.lost})
        return event

    def _note_exit(self, host: str, told: str) -> None:
        one = self.hosts[host]
        try:
            one.exit = msgspec.json.decode(told, type=Exit)
        except msgspec.MsgspecError:
            self._lose(host, HostError(host, "watch", f"a line that cannot be understood: {told[:80]!r}"))
            return
        if one is self._server:
            self._missing = self.missing()
        elif one.died and self.endures(host) and not is_echo(one.failed):
            self._start_again(host)

    def _start_again(self, host: str) -> None:
        """Start a client that died again, or say that the campaign goes on without it."""
        one, before = self.hosts[host], self._followers.get(host)
        told = f"{host}: {one.ending}{self._when()}"
        self.on_host(host, one.ending)
        if not one.worth_another_start or before is None or not self.pauses_s:
            self.on_note(f"{told}; the campaign goes on without it")
        elif one.starts >= len(self.pauses_s):
            self.on_note(f"{told}; it was started again {one.starts} times, the campaign goes on without it")
        else:
            pause_s = self.pauses_s[one.starts]
            one.exit, one.before, one.failed, one.starts = None, one.exit, None, one.starts + 1
            self.on_note(f"{told}; starting it again in {pause_s:g} s")
            self._begin(Follower(before.worker, before.names, self, pause_s=pause_s, seen=before.seen))

    def _lose(self, host: str, error: DeployError) -> None:
        """Take in that nothing more will be heard of a process."""
        one = self.hosts[host]
        one.lost, one.away = error, None
        # A start that failed brings nobody back: the process has ended as it had before.
        one.exit = one.exit or one.before
        if self.endures(host):
            said = error.briefly if isinstance(error, CommandFailed) else str(error)
            self.on_host(host, "not watched any more")
            self.on_note(f"{said}; the campaign goes on without it")

    def _check(self) -> None:
        """Raise the cause if one has failed that is needed.

        Others are heard out first: the first to speak is not always the cause, and a server that ends takes all its
        clients with it.
        """
        if self._needed_failed():
            self._hear_out()
            if self._needed_failed():
                raise self._cause()

    def _needed_failed(self) -> bool:
        if not self.running:
            return any(one.bad for one in self.hosts.values())
        clients = self._clients.values()
        all_gone = bool(clients) and all(one.died for one in clients)
        return self._server.bad or (all_gone and not self._server.ended)

    def _hear_out(self) -> None:
        """Give all processes that can be heard a moment to say what they saw, and to end."""
        deadline = time.monotonic() + self.aftermath_s  # one for all: some always have something to say
        with suppress(Empty):
            while any(one.heard for one in self.hosts.values()) and (left_s := deadline - time.monotonic()) > 0:
                self._next(left_s)

    def _cause(self) -> DeployError:
        """Return the most telling error; once the campaign runs, that of a server that failed, with who was missing."""
        server, *clients = self.hosts
        if not (self.running and self._server.bad):
            return cause({name: self.hosts[name] for name in (*clients, server)}, self._when())
        said = self._server.failed.reason if self._server.failed else ""
        unsaid = {client: why for client, why in self.missing().items() if client not in said}
        without = "".join(f"; without {client} ({why})" for client, why in unsaid.items())
        return cause({server: self._server}, f"{self._when()}{without}")

    def _when(self) -> str:
        return f" ({self._last})" if self._last else ""
