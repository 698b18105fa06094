"""A client between hello and goodbye: it does what the server says, trial by trial, from fresh state."""

from __future__ import annotations

import random
import sys
from typing import TYPE_CHECKING, Any

import pytest
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flclient.connection import ConnectionFailed
from flclient.session import Session
from flcommon import flower, wire
from flcommon.delay import Constant, Delay
from flcommon.errors import FieldlabError
from flcommon.eventlog import now
from flcommon.events import (
    AppRaised,
    ComputeEnded,
    ComputeStarted,
    Delayed,
    MessageReceived,
    ReplySent,
    TrialEnded,
    TrialOpened,
    TrialPrepared,
)
from flcommon.inbox import Heard
from flcommon.job import AppRef, ClientJob, ClientTrial
from flcommon.outbox import Offered
from flcommon.sampling import Sampler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flcommon.outbox import Watch

NODE = 1002


def trial(index: int, seed: int = 7, delay: Delay | None = None) -> ClientTrial:
    return ClientTrial(index=index, seed=seed, run_config={"lr": 0.1, "trial": index}, schedule=0, delay=delay)


JOB = ClientJob(
    campaign="c1",
    host="b",
    app=AppRef(client="not.used:app", server="not.used:app"),
    server_address="nowhere:0",
    delay_seed=1,
    node_config={"partition-id": 1},
    warmup=trial(-1),
    trials=(trial(0), trial(1, delay=Delay(1.0, Constant(0.01)))),
)


class Script:
    """Stands for a Connection: says its lines, one after the other, and keeps what it is told."""

    def __init__(self, *heard: Heard) -> None:
        self._heard = heard
        self.sampler: Any = None
        self.sent: list[tuple[wire.FromClient, tuple[bytes, ...]]] = []

    def frames(self) -> Iterator[Heard]:
        yield from self._heard

    def send(self, frame: wire.Frame, body: tuple[bytes, ...] = (), watch: Watch | None = None) -> None:
        self.sent.append((frame, body))
        if watch is not None:
            watch.offered(Offered(now(), now(), 1000))

    @property
    def replies(self) -> list[Message]:
        return [flower.decode(body[0], body[1:]) for frame, body in self.sent if isinstance(frame, wire.Reply)]

    @property
    def said(self) -> list[str]:
        """What was answered to what: `prepared 0`, `reply 0-1`."""
        return [
            f"reply {frame.message}" if isinstance(frame, wire.Reply) else f"prepared {frame.trial}"
            for frame, _ in self.sent
        ]


class Recorder(ClientApp):
    """An app that keeps what it was called with, draws a number, and counts in its state."""

    def __init__(self) -> None:
        super().__init__()
        self.contexts: list[Context] = []

        @self.train()
        def train(message: Message, context: Context) -> Message:
            self.contexts.append(context)
            calls = context.state.config_records.setdefault("calls", ConfigRecord({"n": 0}))
            calls["n"] += 1
            metrics = MetricRecord({"draw": random.random(), "calls": calls["n"]})  # noqa: S311 - as apps draw
            return Message(RecordDict({"metrics": metrics}), reply_to=message)

        @self.evaluate()
        def evaluate(message: Message, context: Context) -> Message:  # noqa: ARG001 - Flower's signature
            raise ZeroDivisionError("no data")

        @self.query()
        def query(message: Message, context: Context) -> Message:  # noqa: ARG001 - Flower's signature
            return "nonsense"  # type: ignore[return-value]

        @self.query("leave")
        def leave(message: Message, context: Context) -> Message:  # noqa: ARG001 - Flower's signature
            sys.exit("enough")


SENT = wire.Clocks(11, 12)
"""When the server offered its frames, by its clocks."""


def said(frame: wire.FromServer, *body: bytes) -> Heard:
    at = now()
    return Heard(frame, body, 1, SENT, header=at, first=at, last=at, wire_bytes=1000)


WELCOME = said(wire.Welcome(NODE, resumed=False))
GOODBYE = said(wire.Goodbye())


def opened(index: int) -> Heard:
    return said(wire.OpenTrial(index))


def closed(index: int, *, ok: bool = True) -> Heard:
    return said(wire.CloseTrial(index, ok))


def instruction(index: int, number: int, kind: str = "train") -> Heard:
    message = Message(RecordDict({"config": ConfigRecord({"server-round": number})}), NODE, kind)
    flower.set_message_id(message, f"{index}-{number}")
    parts = flower.encode(message)
    return said(wire.Instruction(f"{index}-{number}", index, number), parts.skeleton, *parts.segments)


@pytest.fixture
def play(log: Any) -> Callable[..., tuple[Script, Recorder]]:
    """Return a function that runs a session through these frames."""

    def run(*frames: Heard) -> tuple[Script, Recorder]:
        script, app = Script(WELCOME, *frames), Recorder()
        script.sampler = Sampler(0.0, log, (), lambda _client: None)
        Session(JOB, app, script, log).run()
        return script, app

    return run


def metrics(script: Script, name: str) -> list[float]:
    return [reply.content.metric_records["metrics"][name] for reply in script.replies]


def test_a_trial_from_open_to_close(log: Any, play: Callable) -> None:
    """Prepared is answered to open, a reply with the instruction's id to each instruction, nothing to close."""
    script, _ = play(opened(0), instruction(0, 1), instruction(0, 2), closed(0), GOODBYE)
    assert script.said == ["prepared 0", "reply 0-1", "reply 0-2"]
    a_message = [MessageReceived, ComputeStarted, ComputeEnded, ReplySent]
    kinds = [type(event) for _, event in log.entries]
    assert kinds == [TrialOpened, TrialPrepared, *a_message, *a_message, TrialEnded]
    (ended,) = log.of(TrialEnded)
    assert (ended.trial, ended.ok, ended.rounds) == (0, True, 2)
    opened_at = next(at for at, event in log.entries if isinstance(event, TrialOpened))
    closed_at = next(at for at, event in log.entries if isinstance(event, TrialEnded))
    assert ended.duration_s == opened_at.until_s(closed_at)


def test_events_carry_the_place_and_the_sizes(log: Any, play: Callable) -> None:
    """Whose message it is, and how many bytes of Flower's Message came and went."""
    frame = instruction(1, 3)
    script, _ = play(opened(1), frame, closed(1), GOODBYE)
    events = [event for _, event in log.entries if hasattr(event, "message")]
    assert len(events) == 5
    for event in events:
        place = (event.trial, event.round, event.message, event.client, event.kind)
        assert place == (1, 3, "1-3", "b", "train")
    received, sent = log.of(MessageReceived)[0], log.of(ReplySent)[0]
    assert (received.size_bytes, received.wire_bytes) == (frame.size_bytes, 1000)
    assert (sent.size_bytes, sent.wire_bytes) == (sum(map(len, script.sent[-1][1])), 1000)
    assert min(received.queue_s, received.decode_s, sent.encode_s, sent.queue_s, sent.send_s) >= 0
    assert log.of(Delayed)[0].requested_s == 0.01


def test_the_reply_goes_back_to_the_server(play: Callable) -> None:
    """Flower's own addressing is kept: from this node, to the sender, in reply to that message."""
    script, _ = play(opened(0), instruction(0, 1), GOODBYE)
    (reply,) = script.replies
    assert reply.metadata.reply_to_message_id == "0-1"
    assert (reply.metadata.src_node_id, reply.metadata.dst_node_id) == (NODE, flower.SERVER_NODE_ID)


def test_a_reply_tells_when_its_instruction_came(play: Callable) -> None:
    """For comparing clocks: the server's stamp goes back with this client's own."""
    asked = instruction(0, 1)
    script, _ = play(opened(0), asked, GOODBYE)
    (reply,) = (frame for frame, _ in script.sent if isinstance(frame, wire.Reply))
    assert reply.asked == SENT
    assert reply.received == tuple(asked.header)


def test_a_welcome_voids_what_was_known(play: Callable) -> None:
    """To a server that has given this client up, the trial is not open here until it says so again."""
    with pytest.raises(FieldlabError, match="outside that trial"):
        play(opened(0), instruction(0, 1), WELCOME, instruction(0, 2), GOODBYE)
    script, _ = play(opened(0), instruction(0, 1), WELCOME, opened(0), instruction(0, 2), GOODBYE)
    assert metrics(script, "calls") == [1, 1]


def test_the_app_gets_its_configuration(play: Callable) -> None:
    """run_config is the trial's, node_config the job's; run and node ids are the server's."""
    _, app = play(opened(1), instruction(1, 1), GOODBYE)
    (context,) = app.contexts
    assert context.run_config == {"lr": 0.1, "trial": 1}
    assert context.node_config == {"partition-id": 1}
    assert (context.run_id, context.node_id) == (flower.run_id(1), NODE)


def test_every_trial_starts_from_fresh_state(play: Callable) -> None:
    """State lasts for a trial and no longer, and the same seed gives the same draws whatever ran before."""
    a_trial = [instruction(0, 1), instruction(0, 2)]
    other = [instruction(1, 1), instruction(1, 2)]
    script, app = play(opened(0), *a_trial, closed(0), opened(1), *other, closed(1), opened(0), *a_trial, GOODBYE)
    assert metrics(script, "calls") == [1, 2, 1, 2, 1, 2]
    draws = metrics(script, "draw")
    assert draws[:2] == draws[2:4] == draws[4:]
    assert draws[0] != draws[1]
    app.contexts[0].run_config["lr"] = 9.0
    assert app.contexts[-1].run_config["lr"] == 0.1


def test_the_warmup_is_a_trial_like_any_other(log: Any, play: Callable) -> None:
    """Trial -1 is opened, run and closed."""
    script, _ = play(opened(-1), instruction(-1, 1), closed(-1), GOODBYE)
    assert script.said == ["prepared -1", "reply -1-1"]
    assert log.of(TrialEnded)[0].trial == -1


def test_an_app_that_raises_is_flowers_error_reply(log: Any, play: Callable, capsys: Any) -> None:
    """The server gets the reason, stderr the traceback, and the client goes on."""
    script, _ = play(opened(0), instruction(0, 1, "evaluate"), instruction(0, 2), closed(0), GOODBYE)
    failed, good = script.replies
    assert failed.has_error()
    assert failed.error.reason == "ZeroDivisionError: no data"
    assert good.has_content()
    assert "Traceback" in capsys.readouterr().err
    assert [(event.message, event.error) for event in log.of(AppRaised)] == [("0-1", "ZeroDivisionError: no data")]
    assert [event.message for event in log.of(ComputeEnded)] == ["0-1", "0-2"]
    assert [event.message for event in log.of(ReplySent)] == ["0-1", "0-2"]


def test_a_message_type_that_the_app_does_not_know_is_an_error_reply(play: Callable) -> None:
    """An app without that function is not the end of the campaign."""
    script, _ = play(opened(0), instruction(0, 1, "query.other"), GOODBYE)
    assert "No query function registered" in script.replies[0].error.reason


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("query", "TypeError: the app returned str, not a flwr.app.Message"), ("query.leave", "SystemExit: enough")],
)
def test_an_app_that_misbehaves_is_an_error_reply_too(play: Callable, kind: str, reason: str) -> None:
    """What is no message, and an app that wants to leave the process, cost their reply and nothing else."""
    script, _ = play(opened(0), instruction(0, 1, kind), instruction(0, 2), closed(0), GOODBYE)
    assert script.replies[0].error.reason == reason
    assert script.replies[1].has_content()


@pytest.mark.parametrize(
    "frames",
    [
        lambda: (instruction(0, 1),),
        lambda: (opened(0), instruction(1, 1)),
        lambda: (opened(0), closed(0), instruction(0, 1)),
    ],
    ids=["before any", "of another", "after its close"],
)
def test_an_instruction_outside_its_trial_is_refused(play: Callable, frames: Callable) -> None:
    """A message would be delayed and logged for the wrong trial: better none."""
    with pytest.raises(FieldlabError, match="outside that trial"):
        play(*frames(), GOODBYE)


def test_nothing_is_done_after_goodbye(play: Callable) -> None:
    """Goodbye is the end, whatever follows on the stream."""
    script, _ = play(GOODBYE, opened(0))
    assert script.sent == []


def test_a_goodbye_with_a_reason_is_an_error(play: Callable) -> None:
    """The client's log says why the server ended the campaign."""
    with pytest.raises(ConnectionFailed, match="the server ended the campaign: run: a is gone"):
        play(opened(0), said(wire.Goodbye("run: a is gone")))


def test_a_stream_that_ends_without_goodbye_is_an_error(play: Callable) -> None:
    """A server that just stopped is not a regular end."""
    with pytest.raises(ConnectionFailed, match="without a goodbye"):
        play(opened(0), closed(0))


def test_a_failed_trial_is_noted_as_such(log: Any, play: Callable) -> None:
    """`ok` is the server's to say."""
    play(opened(0), closed(0, ok=False), GOODBYE)
    assert [(event.ok, event.rounds) for event in log.of(TrialEnded)] == [(False, 0)]
