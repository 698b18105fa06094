"""A server's grid and its clients over real gRPC on loopback, and what tests of them need."""

import importlib
import os
import warnings

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # flwr reads it when first imported
with warnings.catch_warnings():
    # flwr 1.41 pins typer below 0.21, which uses names that click 8.5 deprecates.
    warnings.filterwarnings("ignore", r"'click\.", DeprecationWarning)
    importlib.import_module("flwr.app")

import itertools
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import msgspec
import psutil
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flclient.connection import channel_options
from flclient.session import take_part
from flcommon import flower, process, wire
from flcommon.eventlog import EventLog, Reading, now, parse_line, read_log
from flcommon.events import Event
from flcommon.following import watch
from flcommon.inbox import Heard, Inbox
from flcommon.job import AppRef, ClientJob, ClientTrial, Job, Transport
from flserver.grid import GrpcGrid
from flserver.rounds import Rounds

LONG_S = 20.0
"""A test that has to wait this long fails."""
CALM = Transport(keepalive_s=60.0, rejoin_timeout_s=60.0, clock_every_s=0.0)
"""Nothing happens by itself: no ping, no keepalive, nobody is given up."""
NEVER = wire.Clocks(0, 0)


class Hand:
    """One connection of a client led by hand: it says and does what the test tells it, and nothing else."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.insecure_channel(address, options=channel_options(CALM))
        self._outgoing: SimpleQueue[bytes | None] = SimpleQueue()
        join = self._channel.stream_stream(f"/{wire.SERVICE}/{wire.METHOD}")
        self._incoming = join(iter(self._outgoing.get, None))
        self._numbers = itertools.count(1)
        self.confirmed = 0
        self.inbox: Inbox = Inbox(wire.from_server, self._confirm)

    def _confirm(self, number: int) -> None:
        self.confirmed = number

    def hello(self, name: str, *, campaign: str = "c1", protocol: int = wire.PROTOCOL, session: str = "s1") -> "Hand":
        self.say(wire.Hello(protocol, campaign, name, session), number=0)
        return self

    def say(self, frame: wire.Frame, *body: bytes, number: int | None = None) -> None:
        """Say a frame, in order, or with a number of the test's choice."""
        number = next(self._numbers) if number is None else number
        envelope = wire.Envelope(number, self.inbox.number, wire.Clocks(*now()), frame, tuple(map(len, body)))
        for message in wire.messages(wire.pack(envelope), body):
            self.say_bytes(message)

    def say_bytes(self, data: bytes) -> None:
        """Put raw bytes on the stream, as no client of ours would."""
        self._outgoing.put(data)

    def finish(self) -> None:
        """Say no more, but keep listening."""
        self._outgoing.put(None)

    def hear_whole(self) -> Heard:
        """Return the next frame with all that is known of it; wait for it."""
        while (heard := self.inbox.take(next(self._incoming), now())) is None:
            pass
        return heard

    def hear(self) -> wire.FromServer:
        """Return the next frame; wait for it."""
        return self.hear_whole().frame

    def hear_rest(self) -> list[wire.FromServer]:
        """Return all frames until the server ends the stream."""
        heard = []
        while True:
            try:
                heard.append(self.hear())
            except StopIteration:
                return heard

    def hear_end(self) -> grpc.StatusCode:
        """Wait until the connection has ended by an error, whatever comes before; return which."""
        with pytest.raises(grpc.RpcError) as caught:
            for _ in self._incoming:
                pass
        return caught.value.code()

    def instruction(self) -> tuple[wire.Instruction, Message]:
        """Wait for the next instruction."""
        heard = self.hear_whole()
        assert isinstance(heard.frame, wire.Instruction)
        return heard.frame, flower.decode(heard.body[0], heard.body[1:])

    def reply(self, frame: wire.Instruction, message: Message, value: int = 0) -> None:
        content = RecordDict({"metrics": MetricRecord({"value": value})})
        self.send(frame, Message(content, reply_to=message))

    def send(self, frame: wire.Instruction, reply: Message) -> None:
        """Send a reply of the test's own."""
        parts = flower.encode(reply)
        self.say(wire.Reply(frame.message, NEVER, NEVER), parts.skeleton, *parts.segments)

    def answer(self, value: int = 0) -> None:
        """Wait for an instruction and reply to it."""
        self.reply(*self.instruction(), value=value)

    def fail(self, reason: str) -> None:
        """Wait for an instruction and reply with Flower's error."""
        frame, message = self.instruction()
        self.send(frame, flower.app_raised(message, reason))

    def hang_up(self) -> None:
        """End the connection without a word."""
        self.finish()
        self._channel.close()


class Lab:
    """A grid that listens on loopback, for one campaign."""

    def __init__(self, path: Path, clients: tuple[str, ...], stack: ExitStack, transport: Transport = CALM) -> None:
        self._path, self._stack = path, stack
        self.log = EventLog(path)
        stack.callback(self.log.close)
        self._pool = stack.enter_context(ThreadPoolExecutor(4, thread_name_prefix="test"))
        self.clients = clients
        self.grid = GrpcGrid("c1", clients, self.log, transport)
        stack.callback(self.grid.streams.close, None, 0.1)  # who has hung up is not waited for
        self.address = self.grid.streams.listen("127.0.0.1:0")

    def hand(self) -> Hand:
        """Return a client that is connected and has said nothing."""
        hand = Hand(self.address)
        self._stack.callback(hand.hang_up)
        return hand

    def join(self, name: str, session: str = "s1") -> Hand:
        """Return a client that has joined and been welcomed."""
        hand = self.hand().hello(name, session=session)
        assert hand.hear() == wire.Welcome(self.grid.roster.node_ids[name], resumed=False)
        return hand

    def join_all(self) -> list[Hand]:
        return [self.join(name) for name in self.clients]

    def job(self, name: str, *trials: ClientTrial, transport: Transport = CALM, address: str = "") -> ClientJob:
        """Return the job of one of this campaign's clients."""
        return ClientJob(
            campaign="c1",
            host=name,
            app=AppRef(client="not.used:app", server="not.used:app"),
            transport=transport,
            server_address=address or self.address,
            delay_seed=1,
            node_config={},
            trials=trials,
            connect_timeout_s=LONG_S,
        )

    def session(self, name: str, app: ClientApp, log: EventLog, *trials: ClientTrial) -> Future:
        """Run a real client in a thread, with an app of the test."""
        return self.call(take_part, self.job(name, *trials), app, log)

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


@dataclass
class Story:
    """What is left of a campaign: exit statuses and logs, by host."""

    statuses: dict[str, int]
    readings: dict[str, Reading]

    def events(self, host: str, *kinds: type[Event]) -> list[Event]:
        return [event for _, event in self.readings[host].events if isinstance(event, kinds or Event)]

    def stamped(self, host: str, kind: type[Event]) -> list[tuple[float, Event]]:
        """Return the events of a kind with their moments, in seconds of the monotonic clock."""
        return [(stamp.mono_ns / 1e9, event) for stamp, event in self.readings[host].events if isinstance(event, kind)]


class Campaign:
    """The processes of a campaign, each in a directory of its own. `inside` is what comes before each command."""

    def __init__(self, place: Path, stack: ExitStack) -> None:
        self._place, self._stack = place, stack
        self.processes: dict[str, subprocess.Popen] = {}

    def start(self, module: str, job: Job, inside: Sequence[str] = (), **environment: str) -> subprocess.Popen:
        """Start a host's process, for the first time or again."""
        directory = self._place / job.host
        directory.mkdir(exist_ok=True)
        (directory / "job.json").write_bytes(msgspec.json.encode(job))
        output = self._stack.enter_context((directory / "output").open("ab"))
        argv = [*inside, sys.executable, "-P", "-m", module, directory / "job.json"]
        env = os.environ | environment
        child = subprocess.Popen(argv, cwd=directory, stdout=output, stderr=subprocess.STDOUT, env=env)
        self._stack.enter_context(child)
        self._stack.callback(child.kill)
        self.processes[job.host] = child
        (directory / "process.json").write_bytes(msgspec.json.encode(process.identify(child.pid)))
        return child

    def wait_for(self, host: str, kind: type[Event], wanted: Callable[[Any], bool] = lambda _event: True) -> Event:
        """Return the first event of a kind that is wanted in a host's log, as soon as it is there."""
        for line in watch(self._place / host, [kind.__struct_config__.tag]):
            if b'"name"' in line and wanted(event := parse_line(line)[1]):  # the last line is how the process ended
                return event
        raise AssertionError(f"{host} has ended without {kind.__name__}: {self.output(host)}")

    def output(self, host: str) -> str:
        return (self._place / host / "output").read_text(errors="replace")

    def events(self, host: str, kind: type[Event]) -> list[Event]:
        """Return what there is so far."""
        return [event for _, event in read_log(self._place / host / "events.jsonl").events if isinstance(event, kind)]

    def story(self, seconds: float = 30.0) -> Story:
        """Wait for the end of all processes."""
        return Story(
            {host: child.wait(seconds) for host, child in self.processes.items()},
            {host: read_log(self._place / host / "events.jsonl") for host in self.processes},
        )


@pytest.fixture(scope="session")
def make_campaign() -> Callable[[Path], AbstractContextManager[Campaign]]:
    """Return a function that gives a campaign of processes below a directory, for the length of a with-block."""

    @contextmanager
    def make(place: Path) -> Iterator[Campaign]:
        with ExitStack() as stack:
            yield Campaign(place, stack)

    return make


@pytest.fixture
def campaign(tmp_path: Path, make_campaign: Callable) -> Iterator[Campaign]:
    with make_campaign(tmp_path) as campaign:
        yield campaign


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
    for child in left:
        child.kill()
    assert not left, f"{left} were left behind"


@pytest.fixture(autouse=True)
def _task_identity(flower_identity: None) -> None:
    """Be flwr's server process."""


@pytest.fixture
def make_lab(tmp_path: Path) -> Iterator[Callable[..., Lab]]:
    """Return a function that starts a grid for clients of these names."""
    with ExitStack() as stack:
        yield lambda *clients, transport=CALM: Lab(tmp_path / "events.jsonl", clients, stack, transport)


@pytest.fixture
def lab(make_lab: Callable[..., Lab]) -> Lab:
    """Return a grid that waits for clients a and b, with trial 0 begun."""
    lab = make_lab("a", "b")
    lab.begin()
    return lab


@pytest.fixture(scope="session")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the library that shifts a process's clocks."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("not installed: gcc")
    source = Path(__file__).parent / "apps" / "clock.c"
    library = tmp_path_factory.mktemp("clock") / "clock.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl", "-lm"], check=True)
    return library
