"""One client's part in a campaign: says hello, prepares each trial when told, runs the app on each instruction."""

from __future__ import annotations

import time
import traceback
from typing import TYPE_CHECKING

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from flclient.connection import Connection, ConnectionFailed
from flclient.mods import delay_mod, timing_mod, with_mods
from flcommon import flower, wire
from flcommon.delay import Draw
from flcommon.errors import FieldlabError
from flcommon.eventlog import EventLog, Moment, now
from flcommon.events import MessageReceived, Place, Ready, ReplySent, TrialEnded, TrialOpened, TrialPrepared
from flcommon.seeding import seed_everything

if TYPE_CHECKING:
    from flcommon.job import ClientJob, ClientTrial


def run_client(job: ClientJob, log: EventLog, started: float) -> None:
    """Take part until the server says goodbye; `started` is the process's start on `time.monotonic`.

    Raises FieldlabError if the app cannot be loaded, or the server cannot be reached, refuses, or is gone.
    """
    importing = time.monotonic()
    app = flower.load_app(job.app.client, ClientApp, job.app.directory)
    loaded = time.monotonic()
    log.write(Ready(after_s=loaded - started, app_import_s=loaded - importing))
    with Connection(job.server_address, job.connect_timeout_s) as connection:
        connection.send(wire.Hello(wire.PROTOCOL, job.campaign, job.host))
        Session(job, app, connection, log).run()


class Session:
    """What a client knows between hello and goodbye."""

    def __init__(self, job: ClientJob, app: ClientApp, connection: Connection, log: EventLog) -> None:
        self._job = job
        self._app = app
        self._connection = connection
        self._log = log
        self._trials = {trial.index: trial for trial in (job.warmup, *job.trials) if trial is not None}
        self._node_id = 0
        self._trial: ClientTrial | None = None
        self._context: Context | None = None
        self._rounds = 0
        self._waited: set[int] = set()
        self._opened = now()

    def run(self) -> None:
        """Do what the server says until it says goodbye."""
        for data in self._connection.receive():
            at = now()
            frame, payload = wire.unpack_from_server(data)
            match frame:
                case wire.Welcome(node_id):
                    self._node_id = node_id
                case wire.OpenTrial(index):
                    self._open(index)
                case wire.Instruction():
                    self._instruct(frame, payload, at)
                case wire.CloseTrial(index, ok):
                    self._close(index, ok=ok)
                case wire.Goodbye(error):
                    if error is not None:
                        raise ConnectionFailed("run", f"the server ended the campaign: {error}")
                    return
        raise ConnectionFailed("run", "the server closed the stream without a goodbye")

    def _open(self, index: int) -> None:
        self._opened = self._log.write(TrialOpened(trial=index))
        trial = self._trial = self._trials[index]
        self._rounds, self._waited = 0, set()
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
        self._log.write(TrialPrepared(trial=index))
        self._connection.send(wire.Prepared(index))

    def _close(self, index: int, *, ok: bool) -> None:
        at = now()
        self._log.write(TrialEnded(trial=index, ok=ok, rounds=self._rounds, duration_s=self._opened.until_s(at)), at)
        self._trial = self._context = None

    def _instruct(self, frame: wire.Instruction, payload: memoryview, at: Moment) -> None:
        """Run the app on one instruction and send the reply, or Flower's error reply if the app raised."""
        trial, context = self._trial, self._context
        if trial is None or context is None or trial.index != frame.trial:
            raise FieldlabError(f"an instruction of trial {frame.trial} arrived outside that trial")
        message = flower.decode(payload)
        place = Place(
            trial=frame.trial,
            round=frame.round,
            message=frame.message,
            client=self._job.host,
            kind=message.metadata.message_type,
        )
        self._log.write(MessageReceived(**place, size_bytes=len(payload)), at)
        self._rounds = max(self._rounds, frame.round)
        reply = self._call(place, trial, message, context)
        encoded = flower.encode(reply)
        sent = self._connection.send(wire.Reply(frame.message), encoded)
        self._log.write(ReplySent(**place, size_bytes=len(encoded)), sent)

    def _call(self, place: Place, trial: ClientTrial, message: Message, context: Context) -> Message:
        who = Draw(self._job.delay_seed, self._job.host, trial.schedule, place["round"])
        delaying = delay_mod(place, trial.delay, who, self._log, self._waited)
        call = with_mods(self._app, [delaying, timing_mod(place, self._log)])
        try:
            return _checked(call(message, context))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever the app raises becomes Flower's error reply
            traceback.print_exc()
            return flower.app_raised(message, f"{type(error).__name__}: {error}")


def _checked(reply: object) -> Message:
    if not isinstance(reply, Message):
        raise TypeError(f"the app returned {type(reply).__name__}, not a flwr.app.Message")
    return reply
