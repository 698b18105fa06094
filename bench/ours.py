"""Runs flserver and flclient as real processes over loopback and reads what their event logs say.

Round times are those of the server's own log: a round lasts until the next one starts, so nothing is left out.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from outcome import Outcome
from processes import REPOSITORY, TIMEOUT_S, BenchmarkFailed, Fleet

from flcommon.eventlog import read_log
from flcommon.events import AnyEvent, Listening, MessageSent, ReplyReceived, RoundEnded, RoundStarted, Stamp, TrialEnded
from flcommon.job import WARMUP, AppRef, ClientJob, ClientTrial, ConfigValue, Job, ServerJob, ServerTrial, Transport
from flcommon.process import ALLOCATOR

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from outcome import Work
    from usage import Sampler

    from flcommon.job import Tls

WARMUP_ROUNDS = 20
CAMPAIGN = "bench"
SERVER = "server"
Events = list[tuple[Stamp, AnyEvent]]


@dataclass(frozen=True)
class Experiment:
    """What one campaign of a benchmark does: `rounds` in each of `trials`, after a warm-up."""

    clients: int
    rounds: int
    trials: int = 1
    warmup_rounds: int = WARMUP_ROUNDS
    app: str = "flclient.apps.payload"
    run_config: dict[str, ConfigValue] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The clients' names."""
        return tuple(f"client-{i}" for i in range(self.clients))

    @property
    def reference(self) -> AppRef:
        """Where the app's two halves are."""
        return AppRef(client=f"{self.app}.client_app:app", server=f"{self.app}.server_app:app")

    def config(self, rounds: int) -> dict[str, ConfigValue]:
        """Return a trial's run_config."""
        return {**self.run_config, "seed": 1, "num-server-rounds": rounds}

    def server_job(self) -> ServerJob:
        """Return the server's job, on a port of its own choice."""
        return ServerJob(
            campaign=CAMPAIGN,
            host=SERVER,
            app=self.reference,
            listen="127.0.0.1:0",
            clients=self.names,
            trials=tuple(self._server_trial(index, self.rounds) for index in range(self.trials)),
            warmup=self._server_trial(WARMUP, self.warmup_rounds),
            join_timeout_s=TIMEOUT_S,
        )

    def client_job(self, number: int, server_address: str) -> ClientJob:
        """Return the job of client `number`."""
        return ClientJob(
            campaign=CAMPAIGN,
            host=self.names[number],
            app=self.reference,
            server_address=server_address,
            delay_seed=1,
            node_config={"partition-id": number, "num-partitions": self.clients},
            trials=tuple(self._client_trial(index, self.rounds) for index in range(self.trials)),
            warmup=self._client_trial(WARMUP, self.warmup_rounds),
        )

    def _server_trial(self, index: int, rounds: int) -> ServerTrial:
        return ServerTrial(index=index, seed=1, run_config=self.config(rounds), rounds=rounds)

    def _client_trial(self, index: int, rounds: int) -> ClientTrial:
        return ClientTrial(index=index, seed=1, run_config=self.config(rounds), schedule=0)


@dataclass(frozen=True)
class Engine:
    """Our engine as a checkout has it, with mutual TLS or without, started by `program` (`-m` is Python's own)."""

    code: Path = REPOSITORY
    tls: bool = False
    program: Sequence[str] = ("-m",)


PLAIN, WITH_TLS = Engine(), Engine(tls=True)


@dataclass(frozen=True)
class Ran:
    """A campaign that has ended well: the server's events, and what its processes took."""

    events: Events
    usage: Sampler

    @property
    def outcome(self) -> Outcome:
        """What its trials took, the warm-up left out."""
        events = [(stamp, event) for stamp, event in self.events if getattr(event, "trial", WARMUP) != WARMUP]
        round_s = [event.duration_s for _, event in events if isinstance(event, RoundEnded)]
        marks = [stamp.mono_ns for stamp, event in events if isinstance(event, RoundStarted | RoundEnded)]
        # Absent from the events of a checkout that does not count them.
        passed = (event for _, event in events if isinstance(event, MessageSent | ReplyReceived))
        wire_bytes = sum(getattr(event, "wire_bytes", 0) for event in passed)
        rounds = len(round_s)
        cpu_s = self.usage.cpu_s(marks[0], marks[-1]) / rounds
        return Outcome(round_s, cpu_s, self.usage, wire_bytes / rounds or None)

    def rounds_by_trial(self) -> list[list[float]]:
        """Return the seconds of every round, a list for each trial."""
        found: dict[int, list[float]] = {}
        for _, event in self.events:
            if isinstance(event, RoundEnded) and event.trial != WARMUP:
                found.setdefault(event.trial, []).append(event.duration_s)
        return [found[trial] for trial in sorted(found)]

    def boundaries_s(self) -> list[float]:
        """Return the times from the end of one trial to the first instruction of the next."""
        found: list[float] = []
        ended: Stamp | None = None
        for stamp, event in self.events:
            if isinstance(event, TrialEnded):
                ended = stamp
            elif isinstance(event, MessageSent) and ended is not None:
                found.append((stamp.mono_ns - ended.mono_ns) / 1e9)
                ended = None
        return found


def payload(work: Work) -> Experiment:
    """Return the experiment that sends bytes to every client and back."""
    config: dict[str, ConfigValue] = {"payload-bytes": work.size_bytes}
    return Experiment(work.clients, work.rounds, warmup_rounds=work.warmup, run_config=config)


def run(experiment: Experiment, engine: Engine = PLAIN) -> Ran:
    """Run a campaign and return what came of it; raises BenchmarkFailed."""
    with tempfile.TemporaryDirectory(prefix="bench-") as place, Fleet(engine.code, ALLOCATOR) as fleet:
        home = Path(place)
        tls = _credentials(home, experiment) if engine.tls else {}
        _start(fleet, home, engine, experiment.server_job(), tls)
        log = home / SERVER / "events.jsonl"
        fleet.await_true(lambda: _address(log) is not None, "address of the server")
        address = _address(log) or ""
        if tls:
            _insist_on_tls(address)
        for number in range(experiment.clients):
            _start(fleet, home, engine, experiment.client_job(number, address), tls)
        fleet.wait()
        return Ran(read_log(log).events, fleet.usage)


def _credentials(home: Path, experiment: Experiment) -> dict[str, Tls]:
    # Imported here: `cryptography` takes its time, and a run without TLS needs none of it.
    from certificates import credentials  # noqa: PLC0415

    return credentials(home / "keys", CAMPAIGN, SERVER, experiment.names)


def _insist_on_tls(address: str) -> None:
    from certificates import speaks_tls  # noqa: PLC0415 - as above

    if not speaks_tls(address):
        raise BenchmarkFailed(f"the server at {address} does not speak TLS")


def _start(fleet: Fleet, home: Path, engine: Engine, job: Job, tls: Mapping[str, Tls]) -> None:
    directory = home / job.host
    directory.mkdir()
    path = directory / "job.json"
    path.write_bytes(_encoded(msgspec.structs.replace(job, tls=tls.get(job.host))))
    module = "flserver" if isinstance(job, ServerJob) else "flclient"
    fleet.start(directory, [*engine.program, module, str(path)])


def _encoded(job: Job) -> bytes:
    """Return the job as JSON without what is not asked for, so that older checkouts understand it."""
    plain: dict[str, Any] = msgspec.to_builtins(job)
    unasked = {"tls": None, "transport": msgspec.to_builtins(Transport())}
    kept = {key: value for key, value in plain.items() if key not in unasked or value != unasked[key]}
    kept["app"] = {key: value for key, value in kept["app"].items() if value is not None}
    return msgspec.json.encode(kept)


def _address(log: Path) -> str | None:
    """Return where the server listens, once its log says so."""
    if not log.exists():
        return None
    return next((event.address for _, event in read_log(log).events if isinstance(event, Listening)), None)
