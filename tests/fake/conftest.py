"""A lab of fake hosts for whole campaigns: every answer is scripted, every use of a host is remembered in one list."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from deploy import hostside
from deploy.attach import Place
from deploy.bundle import make_bundle
from deploy.campaign import Request, up
from deploy.errors import HostError
from deploy.facts import Facts
from deploy.inventory import Host, Inventory, Python, Ssh
from deploy.manifest import Manifest
from deploy.playbook import load_playbook
from deploy.remote.fake import Call, FakeRemote
from deploy.remote.protocol import Words
from deploy.view import Silent
from flcommon import events
from flcommon.credentials import certificate_request
from flcommon.process import Exit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from deploy.plan import Plan

HOSTS = ("server", "client-1", "client-2")
PORT = 50123
PLAYBOOK = """
playbook: small
app: flclient.apps.payload
rounds: 2
order: listed
delay: {at: before-upload, seconds: 0.5}
sweep: {delay.probability: [0, 1]}
seed: 7
"""


def request() -> str:
    """Return a certificate request as a host makes it."""
    with tempfile.TemporaryDirectory() as keys:
        return certificate_request(Path(keys))


REQUESTS = {host: request() for host in HOSTS}


@dataclass
class Recorder(Silent):
    """A view that remembers; `interrupt_at` names a kind of event at which the user presses Ctrl-C."""

    phases: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    events: list[tuple[str, events.AnyEvent]] = field(default_factory=list)
    directory: Path | None = None
    interrupt_at: type | None = None

    def phase(self, name: str) -> None:
        self.phases.append(name)

    def run(self, directory: Path, plan: Plan) -> None:  # noqa: ARG002 - the view's signature
        self.directory = directory

    def event(self, host: str, event: events.AnyEvent) -> None:
        self.events.append((host, event))
        if self.interrupt_at is not None and isinstance(event, self.interrupt_at):
            raise KeyboardInterrupt

    def note(self, text: str) -> None:
        self.notes.append(text)


def word(argv: Sequence[str]) -> str:
    """Return in one word what a command does: look, compare, push, pull, manifest, or a verb of flcommon.commands."""
    if "flcommon.commands" in argv:
        return argv[argv.index("flcommon.commands") + 1]
    if argv[0] == "cat":
        return "manifest"
    scripts = {hostside.source("receive"): "push", hostside.source("send"): "pull"}
    found = next((name for script, name in scripts.items() if script in argv), "look")
    return "compare" if found == "push" and "missing" in argv else found


@dataclass
class Station(FakeRemote):
    """A fake host; a `lasting` one's process runs on after its events, until it is stopped or the host is closed."""

    timeline: list[tuple[str, str]] = field(default_factory=list)
    lasting: bool = False
    over: threading.Event = field(default_factory=threading.Event)

    def run(
        self,
        argv: Sequence[str],
        *,
        step: str,
        stdin: bytes | Words = b"",
        on_line: Callable[[str], None] | None = None,
    ) -> str:
        if isinstance(stdin, Words):
            self.timeline.append((self.host, word(argv)))
            return super().run(argv, step=step, stdin=stdin, on_line=on_line)
        told = super().run(argv, step=step, stdin=stdin, on_line=on_line)
        if word(argv) == "stop":
            self.over.set()
        if on_line is not None and self.lasting:
            self.over.wait()
            if self.closed:
                raise HostError(self.host, step, "the connection was closed")
            on_line(exited(-15))
        return told

    def close(self) -> None:
        super().close()
        self.over.set()

    def did(self, name: str) -> list[Call]:
        """Return the calls of one word."""
        return [call for call in self.calls if word(call.argv) == name]

    def _answer(self, call: Call) -> bytes:
        self.timeline.append((self.host, word(call.argv)))
        return super()._answer(call)


@dataclass
class FakeLab:
    """One server and two clients that run a small campaign well, unless the test tells one of them otherwise."""

    tmp_path: Path
    view: Recorder = field(default_factory=Recorder)
    timeline: list[tuple[str, str]] = field(default_factory=list)
    stations: dict[str, Station] = field(default_factory=dict)
    server_address: str = "192.0.2.10:0"
    playbook: str = PLAYBOOK
    unreachable: dict[str, HostError] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for host in HOSTS:
            self.stations[host] = Station(host, {}, timeline=self.timeline)
            self.tell(host, "look", facts(csr=REQUESTS[host]))
            self.tell(host, "request", REQUESTS[host])
            self.tell(host, "run", STORIES[host])
            self.tell(host, "pull", sent(FILES))
            self.tell(host, "converse", answered)

    def tell(self, host: str, name: str, answer: str | bytes | Exception | Callable[[bytes], str]) -> None:
        """Script what a host answers to a word."""
        station = self.stations[host]
        key = _Fits(name)
        station.answers = {key: answer, **{old: told for old, told in station.answers.items() if old != key}}

    def up(self, **wishes: Any) -> None:
        file = self.tmp_path / "small.yaml"
        file.write_text(self.playbook)
        up(Request(self.entered, load_playbook(file), self.runs, self.connect, **wishes), self.view)

    @property
    def place(self) -> Place:
        """The lab as `attach` and `end` want it."""
        return Place(self.entered, self.runs, self.connect)

    @property
    def runs(self) -> Path:
        return self.tmp_path / "runs"

    @property
    def entered(self) -> contextlib.AbstractContextManager[Inventory]:
        return contextlib.nullcontext(self.inventory)

    def connect(self, host: Host) -> Station:
        """Log in, but for hosts that are `unreachable`."""
        refusal = self.unreachable.get(host.name)
        if refusal is not None:
            raise refusal
        return self.stations[host.name]

    @property
    def inventory(self) -> Inventory:
        server, *clients = (_host(name) for name in HOSTS)
        return Inventory(
            file=Path("lab.yaml"),
            lab="bench",
            playbook=None,
            server=server,
            server_address=self.server_address,
            clients=tuple(clients),
        )

    def hosts_that(self, name: str) -> set[str]:
        """Return which hosts were asked for a word."""
        return {host for host, done in self.timeline if done == name}

    @property
    def manifest(self) -> Manifest:
        assert self.view.directory is not None
        return msgspec.json.decode((self.view.directory / "manifest.json").read_bytes(), type=Manifest)

    def raw(self, host: str) -> dict[str, bytes]:
        assert self.view.directory is not None
        return {path.name: path.read_bytes() for path in (self.view.directory / "raw" / host).iterdir()}


@dataclass(frozen=True)
class _Fits:
    name: str

    def __call__(self, argv: tuple[str, ...]) -> bool:
        return word(argv) == self.name


def _host(name: str) -> Host:
    return Host(
        name=name,
        role="server" if name == "server" else "client",
        host=f"192.0.2.{10 + HOSTS.index(name)}",
        ssh=Ssh(),
        python=Python(),
        workdir="~/.fieldlab",
    )


def facts(**changed: Any) -> str:
    """Return what a look at a good host prints."""
    good = Facts(
        home="/home/pi",
        user="pi",
        hostname="raspberrypi",
        workdir="/home/pi/.fieldlab",
        python="/home/pi/venv/bin/python",
        python_version="3.11.2",
        python_bits=64,
        system="Linux",
        platform="Linux-6.6",
        machine="aarch64",
        cpu="Raspberry Pi 4",
        cpus=4,
        memory_mb=3792,
        disk_free_mb=20000,
        writable=True,
        packages=dict.fromkeys(("flwr", "grpc", "msgspec", "numpy", "torch", "torchvision"), "1"),
        code=(),
        wall_ns=0,
    )
    return msgspec.json.encode(msgspec.structs.replace(good, **changed)).decode() + "\n"


def said(*story: events.Event) -> str:
    """Return event lines as a host's log has them."""
    lines = (msgspec.json.encode(event).decode() for event in story)
    stamps = (f'{{"v":1,"seq":{seq},"mono_ns":{seq},"wall_ns":{seq},' for seq in range(len(story)))
    return "".join(f"{stamp}{line[1:]}\n" for stamp, line in zip(stamps, lines, strict=True))


def answered(said: bytes) -> str:
    """Return how a host answers what is said in a conversation; its clocks stand still."""
    line = said.decode().strip()
    return line if line == "leave" else f"{line} 1 2 3 4"


def exited(status: int | None) -> str:
    """Return the last line of a watch."""
    return msgspec.json.encode(Exit(status)).decode() + "\n"


def sent(files: Mapping[str, bytes], **lies: bytes) -> bytes:
    """Return what `deploy.hostside.send` prints; `lies` replace the sums of files."""
    table = "".join(f"{len(content)} {name}\n" for name, content in files.items())
    bodies = (content + lies.get(name, hashlib.sha256(content).digest()) for name, content in files.items())
    return f"{len(files)}\n{table}".encode() + b"".join(bodies)


FILES = {"events.jsonl": b"{}\n", "stdout": b"", "stderr": b"one\ntwo\n", "exit.json": b'{"status":0}'}
OPENING = (
    events.Listening(address=f"192.0.2.10:{PORT}"),
    events.CampaignStarted(trials=2, clients=2),
    events.TrialOpened(trial=0),
    events.RoundStarted(trial=0, round=1),
)
READY = events.Ready(after_s=1.0, app_import_s=0.5)
STORIES = {
    "server": said(*OPENING, events.CampaignEnded(ok=True, trials_done=2)) + exited(0),
    "client-1": said(READY) + exited(0),
    "client-2": said(READY) + exited(0),
}


@pytest.fixture
def lab(tmp_path: Path) -> FakeLab:
    return FakeLab(tmp_path)


@dataclass(frozen=True)
class Script:
    """What hosts print, for tests to change."""

    requests: Mapping[str, str] = field(default_factory=lambda: dict(REQUESTS))
    facts: Callable[..., str] = facts
    said: Callable[..., str] = said
    exited: Callable[[int | None], str] = exited
    sent: Callable[..., bytes] = sent
    opening: tuple[events.Event, ...] = OPENING
    files: Mapping[str, bytes] = field(default_factory=lambda: dict(FILES))


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture(scope="session")
def digest() -> str:
    """Return the digest of the code as it is now."""
    return make_bundle().digest
