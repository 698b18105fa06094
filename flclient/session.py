"""One client's part in a campaign: says hello, prepares each trial when told, runs the app on each instruction."""

from __future__ import annotations

import time
import traceback
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from flclient.connection import Connection, ConnectionFailed
from flclient.link.conductor import Conductor
from flclient.link.shaper import Shaper
from flclient.mods import delay_mod, timing_mod, with_mods
from flclient.probe import Interrupted, Prober
from flcommon import flower, wire
from flcommon.delay import Draw
from flcommon.errors import FieldlabError
from flcommon.eventlog import EventLog, now
from flcommon.events import (
    AppRaised,
    MessageReceived,
    Place,
    Probed,
    Ready,
    ReplySent,
    Transferring,
    TrialEnded,
    TrialOpened,
    TrialPrepared,
)
from flcommon.seeding import seed_everything
from flcommon.sending import Sending

if TYPE_CHECKING:
    from flcommon.inbox import Heard
    from flcommon.job import ClientJob, ClientTrial


PROBE_PINGS, PROBE_EVERY_MS = 50, 5.0
"""What an active look at the natural path takes: a quarter of a second, plus its loads."""


def run_client(job: ClientJob, log: EventLog, started: float) -> None:
    """Take part until the server says goodbye; `started` is the process's start on `time.monotonic`.

    Raises FieldlabError if the app cannot be loaded, or the server cannot be reached, refuses, or is gone.
    """
    importing = time.monotonic()
    app = flower.load_app(job.app.client, ClientApp, job.app.directory)
    flower.settle()
    loaded = time.monotonic()
    log.write(Ready(after_s=loaded - started, app_import_s=loaded - importing))
    take_part(job, app, log)


def take_part(job: ClientJob, app: ClientApp, log: EventLog) -> None:
    """Join the server and run the app on what it says, until it says goodbye; raises StepError."""
    arriving = _Arriving(job.host, log)
    with ExitStack() as stack:
        shaper = stack.enter_context(Shaper(job, job.shaping, log)) if job.shaping else None
        address = shaper.address if shaper else ""
        connection = stack.enter_context(Connection(job, log, arriving.progress, address))
        conductor = Conductor(job, shaper, log, lambda: connection.over) if shaper else None
        if conductor is not None:
            stack.enter_context(conductor)
        stack.enter_context(connection.sampler)
        Session(job, app, connection, log, conductor).run()


class Session:
    """What a client knows between hello and goodbye. `conductor`: who leads its link, if that is shaped."""

    def __init__(
        self, job: ClientJob, app: ClientApp, connection: Connection, log: EventLog, conductor: Conductor | None = None
    ) -> None:
        self._job = job
        self._app = app
        self._connection = connection
        self._log = log
        self._conductor = conductor
        self._prober = Prober(connection)
        self._inject = True
        self._gone: Place | None = None
        self._trials = {trial.index: trial for trial in (job.warmup, *job.trials) if trial is not None}
        self._node_id = 0
        self._trial: ClientTrial | None = None
        self._context: Context | None = None
        self._rounds = 0
        self._waited: set[int] = set()
        self._opened = now()

    def run(self) -> None:
        """Do what the server says until it says goodbye."""
        for heard in self._connection.frames():
            if isinstance(heard.frame, wire.Goodbye):
                if heard.frame.error is not None:
                    raise ConnectionFailed("run", f"the server ended the campaign: {heard.frame.error}")
                return
            with suppress(Interrupted):  # what the server says next, begins anew
                self._do(heard)
            size_bytes = heard.size_bytes
            del heard  # with its arrays, before the next message arrives
            flower.let_go(size_bytes)
        raise ConnectionFailed("run", "the server closed the stream without a goodbye")

    def _do(self, heard: Heard[wire.FromServer]) -> None:
        gone, self._gone = self._gone, None
        if gone is not None and self._conductor is not None:
            # Not before: until the server says something more, the reply may still be on its way.
            self._conductor.mark(gone, up=True)
        match heard.frame:
            case wire.Welcome(node_id):
                self._node_id = node_id
                self._trial = self._context = None
            case wire.OpenTrial(index):
                self._open(index)
            case wire.Switch(trial, number, inject):
                self._inject = inject
                if self._conductor is not None:
                    self._conductor.switch(inject=inject)
                self._connection.send(wire.Switched(trial, number))
            case wire.Measure(stage, size_bytes):
                self._measure(stage, size_bytes)
            case wire.Instruction() as instruction:
                self._instruct(instruction, heard)
            case wire.CloseTrial(index, ok):
                self._close(index, ok=ok)

    def _measure(self, stage: str, size_bytes: int) -> None:
        """Look at the natural path; between trials nothing is injected."""
        pings = self._prober.pings(PROBE_PINGS, PROBE_EVERY_MS)
        found = self._prober.goodput(size_bytes)
        event = Probed(
            client=self._job.host,
            stage=stage,
            rtt_ms=tuple(round(1000 * one, 4) for one in pings.rtt_s),
            size_bytes=size_bytes,
            up_mbit=found.up_mbit,
            down_mbit=found.down_mbit,
        )
        self._log.write(event)
        self._connection.send(wire.Measured(stage))

    def _open(self, index: int) -> None:
        self._opened = self._log.write(TrialOpened(trial=index))
        trial = self._trial = self._trials[index]
        self._rounds, self._waited, self._inject = 0, set(), True
        seed_everything(trial.seed)
        run_id = flower.run_id(index)
        flower.set_identity(run_id, self._node_id)
        self._context = Context(
            run_id=run_id,
            node_id=self._node_id,
            node_config=dict(self._job.node_config),
            state=RecordDict(),
            run_config=dict(trial.run_config),
        )
        if self._conductor is not None:
            self._conductor.open(trial, self._prober)
        self._log.write(TrialPrepared(trial=index))
        self._connection.send(wire.Prepared(index))

    def _close(self, index: int, *, ok: bool) -> None:
        at = now()
        self._log.write(TrialEnded(trial=index, ok=ok, rounds=self._rounds, duration_s=self._opened.until_s(at)), at)
        self._trial = self._context = None
        if self._conductor is not None:
            self._conductor.close()

    def _instruct(self, frame: wire.Instruction, heard: Heard[wire.FromServer]) -> None:
        """Run the app on one instruction and send the reply, or Flower's error reply if the app raised."""
        trial, context = self._trial, self._context
        if trial is None or context is None or trial.index != frame.trial:
            raise FieldlabError(f"an instruction of trial {frame.trial} arrived outside that trial")
        taken = now()
        message = flower.decode(heard.body[0], heard.body[1:])
        place = Place(
            trial=frame.trial,
            round=frame.round,
            message=frame.message,
            client=self._job.host,
            kind=message.metadata.message_type,
        )
        event = MessageReceived(
            **place,
            size_bytes=heard.size_bytes,
            wire_bytes=heard.wire_bytes,
            receive_s=heard.first.until_s(heard.last),
            queue_s=heard.last.until_s(taken),
            decode_s=taken.until_s(now()),
        )
        self._connection.sampler.beside(event, heard.last)
        self._rounds = max(self._rounds, frame.round)
        if self._conductor is not None:
            self._conductor.mark(place, up=False)
            self._conductor.enter(frame.round)
            self._conductor.hold()
        reply = self._call(place, trial, message, context)
        returned = now()
        parts = self._encoded(reply, message, place)
        watch = Sending(ReplySent, place, self._log, self._connection.sampler, parts.size_bytes, returned, now())
        asked = wire.Reply(frame.message, heard.sent, wire.Clocks(*heard.header))
        self._connection.send(asked, (parts.skeleton, *parts.segments), watch)
        self._gone = place

    def _encoded(self, reply: Message, message: Message, place: Place) -> flower.Parts:
        """Encode the reply, or Flower's error reply if the app has made one that cannot be."""
        try:
            return flower.encode(reply)
        except flower.MessageError as error:
            self._log.write(AppRaised(**place, error=str(error)))
            return flower.encode(flower.app_raised(message, str(error)))

    def _call(self, place: Place, trial: ClientTrial, message: Message, context: Context) -> Message:
        who = Draw(self._job.delay_seed, self._job.host, trial.schedule, place["round"])
        delaying = delay_mod(place, trial.delay if self._inject else None, who, self._log, self._waited)
        call = with_mods(self._app, [delaying, timing_mod(place, self._log)])
        try:
            return _checked(call(message, context))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the app raises becomes Flower's error reply
            traceback.print_exc()
            reason = f"{type(error).__name__}: {error}"
            self._log.write(AppRaised(**place, error=reason))
            return flower.app_raised(message, reason)


@dataclass(frozen=True)
class _Arriving:
    """Logs how far a long instruction is; what kind it is stands in the part that decoding will read."""

    client: str
    log: EventLog

    def progress(self, frame: wire.Instruction, filled: int, size: int) -> None:
        place = Place(trial=frame.trial, round=frame.round, message=frame.message, client=self.client, kind="")
        self.log.write(Transferring(**place, received_bytes=filled, size_bytes=size))


def _checked(reply: object) -> Message:
    if not isinstance(reply, Message):
        raise TypeError(f"the app returned {type(reply).__name__}, not a flwr.app.Message")
    return reply
