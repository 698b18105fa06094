"""A server's grid and its clients over real gRPC on loopback, and what tests of them need."""

import importlib
import os
import warnings

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # flwr reads it when first imported
with warnings.catch_warnings():
    # flwr 1.41 pins typer below 0.21, which uses names that click 8.5 deprecates.
    warnings.filterwarnings("ignore", r"'click\.", DeprecationWarning)
    importlib.import_module("flwr.app")

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flclient.connection import Connection
from flclient.session import Session
from flcommon import flower, wire
from flcommon.eventlog import EventLog, Reading, read_log
from flcommon.events import Event
from flcommon.job import AppRef, ClientJob, ClientTrial
from flserver.grid import GrpcGrid
from flserver.rounds import Rounds

LONG_S = 20.0
"""A test that has to wait this long fails."""


class Hand:
    """A client led by hand: it says and does what the test tells it, and nothing else."""

    def __init__(self, address: str) -> None:
        self.connection = Connection(address, LONG_S).__enter__()
        self._frames = self.connection.receive()

    def hello(self, name: str, campaign: str = "c1", protocol: int = wire.PROTOCOL) -> "Hand":
        self.connection.send(wire.Hello(protocol, campaign, name))
        return self

    def say(self, frame: wire.Frame, *payload: bytes) -> None:
        self.connection.send(frame, *payload)

    def say_bytes(self, data: bytes) -> None:
        """Put raw bytes on the stream, as no client of ours would."""
        self.connection._outgoing.put(data)

    def hear_bytes(self) -> bytes:
        """Return the next frame; wait for it."""
        return next(self._frames)

    def hear(self) -> wire.FromServer:
        """Return the next frame's header; wait for it."""
        return wire.unpack_from_server(self.hear_bytes())[0]

    def hear_rest(self) -> list[wire.FromServer]:
        """Return all frames until the server ends the stream."""
        return [wire.unpack_from_server(data)[0] for data in self._frames]

    def instruction(self) -> tuple[wire.Instruction, Message]:
        """Wait for the next instruction."""
        frame, payload = wire.unpack_from_server(self.hear_bytes())
        assert isinstance(frame, wire.Instruction)
        return frame, flower.decode(payload)

    def reply(self, frame: wire.Instruction, message: Message, value: int = 0) -> None:
        content = RecordDict({"metrics": MetricRecord({"value": value})})
        self.say(wire.Reply(frame.message), flower.encode(Message(content, reply_to=message)))

    def answer(self, value: int = 0) -> None:
        """Wait for an instruction and reply to it."""
        self.reply(*self.instruction(), value=value)

    def fail(self, reason: str) -> None:
        """Wait for an instruction and reply with Flower's error."""
        frame, message = self.instruction()
        self.say(wire.Reply(frame.message), flower.encode(flower.app_raised(message, reason)))

    def hang_up(self) -> None:
        self.connection.__exit__(None, None, None)


class Lab:
    """A grid that listens on loopback, for one campaign."""

    def __init__(self, path: Path, clients: tuple[str, ...], stack: ExitStack) -> None:
        self._path, self._stack = path, stack
        self.log = EventLog(path)
        stack.callback(self.log.close)
        self._pool = stack.enter_context(ThreadPoolExecutor(4, thread_name_prefix="test"))
        self.clients = clients
        self.grid = GrpcGrid("c1", clients, self.log)
        stack.callback(self.grid.streams.close, None, 1.0)
        self.address = self.grid.streams.listen("127.0.0.1:0")

    def hand(self) -> Hand:
        """Return a client that is connected and has said nothing."""
        hand = Hand(self.address)
        self._stack.callback(hand.hang_up)
        return hand

    def join(self, name: str) -> Hand:
        """Return a client that has joined and been welcomed."""
        hand = self.hand().hello(name)
        assert hand.hear() == wire.Welcome(self.grid.streams.node_ids[name])
        return hand

    def join_all(self) -> list[Hand]:
        return [self.join(name) for name in self.clients]

    def session(self, name: str, app: ClientApp, log: EventLog, *trials: ClientTrial) -> Future:
        """Run a real client's session in a thread, with an app of the test."""
        job = ClientJob(
            campaign="c1",
            host=name,
            app=AppRef(client="not.used:app", server="not.used:app"),
            server_address=self.address,
            delay_seed=1,
            node_config={},
            trials=trials,
        )

        def run() -> None:
            with Connection(self.address, LONG_S) as connection:
                connection.send(wire.Hello(wire.PROTOCOL, "c1", name))
                Session(job, app, connection, log).run()

        return self.call(run)

    def begin(self, trial: int = 0) -> None:
        self.grid.begin(trial, Rounds(self.log, trial))

    def call(self, function: Callable, *args: object, **rest: object) -> Future:
        """Call a function in a thread: the test leads the clients meanwhile."""
        return self._pool.submit(function, *args, **rest)

    def messages(self, server_round: int = 1, kind: str = "train") -> list[Message]:
        """Return one instruction for every client, with one content for all, as strategies make them."""
        content = RecordDict({"config": ConfigRecord({"server-round": server_round})})
        return [Message(content, node, kind, group_id=str(server_round)) for node in self.grid.get_node_ids()]

    def ask(self, server_round: int = 1, timeout: float | None = LONG_S) -> Future:
        return self.call(self.grid.send_and_receive, self.messages(server_round), timeout=timeout)

    @property
    def reading(self) -> Reading:
        return read_log(self._path)

    def events(self, kind: type[Event]) -> list[Event]:
        return [event for _, event in self.reading.events if isinstance(event, kind)]


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    """No thread and no process is left when a test is over."""
    threads = set(threading.enumerate())
    children = set(psutil.Process().children())
    yield
    for thread in set(threading.enumerate()) - threads:
        thread.join(5)
        assert not thread.is_alive(), f"{thread} was left behind"
    left = set(psutil.Process().children(recursive=True)) - children
    for process in left:
        process.kill()
    assert not left, f"{left} were left behind"


@pytest.fixture(autouse=True)
def _task_identity(flower_identity: None) -> None:
    """Be flwr's server process."""


@pytest.fixture
def make_lab(tmp_path: Path) -> Iterator[Callable[..., Lab]]:
    """Return a function that starts a grid for clients of these names."""
    with ExitStack() as stack:
        yield lambda *clients: Lab(tmp_path / "events.jsonl", clients, stack)


@pytest.fixture
def lab(make_lab: Callable[..., Lab]) -> Lab:
    """Return a grid that waits for clients a and b, with trial 0 begun."""
    lab = make_lab("a", "b")
    lab.begin()
    return lab
