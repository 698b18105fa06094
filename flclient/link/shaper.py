"""The client's hold on the process that shapes its link: starts it, tells it what to do, logs what it did.

A process of its own, so that no computing of the app makes a packet late. It ends when this one does, by the end of its
standard input, and the link is natural again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import msgspec

from flclient.link import kernel, protocol
from flcommon.decoding import decoded
from flcommon.errors import StepError
from flcommon.eventlog import EventLog, Moment, now
from flcommon.events import LinkLifted, LinkReady, LinkRestored, LinkSet, LinkUsed, Place, TcpSampled
from flcommon.lease import CONTROL_FILE
from flcommon.link import NATURAL
from flcommon.sockets import tcp_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from flcommon.job import ClientJob, Shaping
    from flcommon.link import Layer, Way

ANSWER_S = 30.0
"""How long a shaping process has for an answer: `tc` behind sudo on a small board that is busy."""
_LOOK_S = 0.5


class ShapingFailed(StepError):
    """The link cannot be shaped as asked: what would be measured is not what the playbook says."""

    def __init__(self, reason: str) -> None:
        super().__init__("link", reason)


@dataclass(frozen=True)
class Setting:
    """What a link is set to, and when: the latest round that the client has seen, 0 before the first."""

    trial: int
    round: int
    state: str
    up: Way
    down: Way


@dataclass
class _Pending:
    """A request whose answer somebody waits for, or that is to be logged when it comes true."""

    setting: Setting
    answer: protocol.Applied | None = None
    done: threading.Event = field(default_factory=threading.Event)


class Shaper:
    """The shaping process of one client. Use it as a context manager; raises ShapingFailed, then and later."""

    def __init__(self, job: ClientJob, shaping: Shaping, log: EventLog) -> None:
        self._job = job
        self._shaping = shaping
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self._reader = threading.Thread(target=self._read, name="shaper", daemon=True)
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._pending: dict[int, _Pending] = {}
        self._marked: dict[tuple[str, bool], Place] = {}
        self._number = 0
        self._broke = ""
        self._ready: protocol.Ready | None = None
        self._changed = threading.Event()
        self._lifted: Moment | None = None
        self._tcp: protocol.Tcp | None = None
        self._longest_s = 0.0

    def __enter__(self) -> Self:
        """Start the process and wait until it is there."""
        self._process = subprocess.Popen(
            command(self._shaping.layer),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # it outlives this process for the moment that it takes to clean up
        )
        self._reader.start()
        # Not the client's own end of the campaign's directory: the log lies in it, and so does the controller's word.
        lease = str(self._log.path.with_name(CONTROL_FILE)) if self._shaping.layer == "kernel" else ""
        setup = protocol.Setup(
            server=self._job.server_address,
            interface=self._shaping.interface,
            lease=lease,
            lease_s=self._shaping.lease_s,
        )
        try:
            self._say(setup)
            self._wait(lambda: self._ready is not None)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it, and wait until the link is as it was."""
        self._end()

    @property
    def layer(self) -> Layer:
        """Which layer it is."""
        return self._shaping.layer

    @property
    def address(self) -> str:
        """Where to connect to instead of the server; empty for the server itself."""
        return self._ready.address if self._ready else ""

    def clear(self, trial: int, number: int) -> protocol.Applied:
        """Be natural in this trial from this round on, and return when that is so.

        What is still held back keeps its moment, and what is sent after it has to wait behind it: it is let go first.
        """
        held_s = self._longest_s
        setting = Setting(trial, number, "", NATURAL, NATURAL)
        applied = self._ask(setting, lambda number: protocol.Clear(number=number))
        if held_s:
            time.sleep(held_s)
        return applied

    def set(self, setting: Setting) -> protocol.Applied:
        """Be so from now on, and return what was applied."""
        return self._ask(setting, lambda number: protocol.Set(number=number, up=setting.up, down=setting.down))

    def set_later(self, setting: Setting, at_ns: int) -> None:
        """Be so from a moment of the monotonic clock on, unless something else is said until then."""
        with self._lock:
            self._number += 1
            number = self._number
            self._pending[number] = _Pending(setting)
        self._say(protocol.Set(number=number, up=setting.up, down=setting.down, at_ns=at_ns))

    def mark(self, place: Place, *, up: bool) -> None:
        """Have logged what was done to a direction since its last mark: this message has gone by."""
        with self._lock:
            self._marked[place["message"], up] = place
        with suppress(ShapingFailed):  # who asks for something is told
            self._say(protocol.Mark(message=place["message"], up=up))

    def begin_counting(self) -> None:
        """Leave what has gone by until now out of what is logged of messages: probes, and rounds of another kind."""
        for up in (True, False):
            self._say(protocol.Mark(message="", up=up))

    def hold(self, is_over: Callable[[], bool]) -> None:
        """Return when the link is in force: at once, unless control was lost; also when all is over."""
        while self._lifted is not None and not is_over():
            self._changed.wait(_LOOK_S)
            self._changed.clear()
            self._check()
        self._check()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _ask(self, setting: Setting, request: Callable[[int], protocol.Request]) -> protocol.Applied:
        pending = _Pending(setting)
        with self._lock:
            self._number += 1
            number = self._number
            self._pending[number] = pending
        self._say(request(number))
        self._wait(pending.done.is_set)
        if pending.answer is None:
            raise ShapingFailed(self._broke)
        return pending.answer

    def _say(self, request: protocol.Request) -> None:
        self._check()
        pipe = self._process.stdin if self._process else None
        try:
            if pipe is not None:
                with self._writing:
                    pipe.write(protocol.line(request))
                    pipe.flush()
        except OSError:
            self._wait(lambda: bool(self._broke))
            self._check()

    def _wait(self, done: Callable[[], bool]) -> None:
        """Wait until something is so; raises ShapingFailed if the process has failed, or says nothing."""
        deadline = now().mono_ns + ANSWER_S * 1e9
        while not done():
            self._check()
            left_s = (deadline - now().mono_ns) / 1e9
            if left_s <= 0:
                raise ShapingFailed(f"the {self.layer} layer did not answer within {ANSWER_S:g} s")
            self._changed.wait(min(left_s, _LOOK_S))
            self._changed.clear()

    def _check(self) -> None:
        if self._broke:
            raise ShapingFailed(self._broke)

    def _end(self) -> None:
        if self._process is None:
            return
        with suppress(OSError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(ANSWER_S)
        except subprocess.TimeoutExpired:
            with suppress(PermissionError):  # behind sudo it is not ours to end; it goes when its lease does
                self._process.terminate()
        if self._reader.is_alive():
            self._reader.join(_LOOK_S)

    def _read(self) -> None:
        """Take in what the process says, until it ends."""
        pipe = self._process.stdout if self._process else None
        for line in pipe or ():
            try:
                self._take(decoded(protocol.answers.decode, line))
            except (msgspec.MsgspecError, OSError) as error:  # OSError: the log cannot be written
                self._broke = self._broke or f"an answer of the {self.layer} layer was lost ({error})"
            self._changed.set()
        if pipe is not None:
            pipe.close()
        self._broke = self._broke or f"the {self.layer} layer has ended by itself"
        self._changed.set()

    def _take(self, answer: protocol.AnyAnswer) -> None:
        client, layer = self._job.host, self._shaping.layer
        match answer:
            case protocol.Ready():
                self._ready = answer
                self._log.write(LinkReady(client=client, layer=layer, about=answer.about))
            case protocol.Applied():
                self._applied(answer)
            case protocol.Used():
                self._used(answer)
            case protocol.Tcp():
                self._tcp = answer
            case protocol.Natural(reason=reason):
                self._lifted = self._log.write(LinkLifted(client=client, reason=reason))
            case protocol.Restored():
                lifted, self._lifted = self._lifted or now(), None
                self._log.write(LinkRestored(client=client, after_s=lifted.until_s(now())))
            case protocol.Broke(reason=reason):
                self._broke = reason

    def _applied(self, answer: protocol.Applied) -> None:
        with self._lock:
            pending = self._pending.pop(answer.number, None)
        if pending is None:
            return
        setting = pending.setting
        event = LinkSet(
            trial=setting.trial,
            round=setting.round,
            client=self._job.host,
            layer=self._shaping.layer,
            state=setting.state,
            up=None if setting.up.natural else setting.up,
            down=None if setting.down.natural else setting.down,
            applied_up=answer.up,
            applied_down=answer.down,
        )
        self._log.write(event, _moment(answer.mono_ns))
        self._longest_s = max(map(_longest_s, (setting.up, setting.down)))
        pending.answer = answer
        pending.done.set()

    def _used(self, answer: protocol.Used) -> None:
        """Log what was done while a message went by, and how the relay's own connection was then."""
        tcp, self._tcp = self._tcp, None
        with self._lock:
            place = self._marked.pop((answer.message, answer.up), None)
        if place is not None:
            if tcp is not None:
                found = tcp_of(tcp.info, tcp.congestion)
                self._log.write(TcpSampled(client=self._job.host, tcp=found, message=answer.message, relay=True))
            counted = msgspec.structs.asdict(answer)
            del counted["message"]
            self._log.write(LinkUsed(**place, layer=self._shaping.layer, **counted))


def command(layer: Layer) -> list[str]:
    """Return the argv of the shaping process; the kernel's layer needs root, and asks for no password."""
    if layer == "kernel":
        return kernel.command(is_root=os.geteuid() == 0)
    return [sys.executable, "-P", "-m", "flclient.link.relay"]


def _longest_s(way: Way) -> float:
    """Return how long a packet may be held back."""
    return (way.delay_ms + way.spread_ms) / 1000


def _moment(mono_ns: int) -> Moment:
    """Return a moment of this host's monotonic clock, with what its wall clock showed then, to a few microseconds."""
    at = now()
    return Moment(mono_ns, at.wall_ns - (at.mono_ns - mono_ns))
