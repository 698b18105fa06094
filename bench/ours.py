"""Runs flserver and flclient as real processes over loopback and reads what their event logs say.

Round times are those of the server's own log: a round lasts until the next one starts, so nothing is left out.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from processes import REPOSITORY, Fleet

from flcommon.eventlog import read_log
from flcommon.events import AnyEvent, Listening, MessageSent, RoundEnded, Stamp, TrialEnded
from flcommon.job import WARMUP, AppRef, ClientJob, ClientTrial, ConfigValue, Job, ServerJob, ServerTrial
from flcommon.process import ALLOCATOR

WARMUP_ROUNDS = 20
CAMPAIGN = "bench"


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
            host="server",
            app=self.reference,
            listen="127.0.0.1:0",
            clients=self.names,
            trials=tuple(self._server_trial(index, self.rounds) for index in range(self.trials)),
            warmup=self._server_trial(WARMUP, self.warmup_rounds),
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


def payload(clients: int, size_bytes: int, rounds: int, trials: int = 1) -> Experiment:
    """Return the experiment that sends `size_bytes` to every client and back."""
    return Experiment(clients, rounds, trials, run_config={"payload-bytes": size_bytes})


def run(experiment: Experiment, code: Path = REPOSITORY) -> list[tuple[Stamp, AnyEvent]]:
    """Run a campaign with the engine of a checkout and return the server's events; raises BenchmarkFailed."""
    with tempfile.TemporaryDirectory(prefix="bench-") as place, Fleet(code, ALLOCATOR) as fleet:
        home = Path(place)
        _start(fleet, home / "server", "flserver", experiment.server_job())
        log = home / "server" / "events.jsonl"
        fleet.await_true(lambda: _address(log) is not None, "address of the server")
        address = _address(log) or ""
        for number, name in enumerate(experiment.names):
            _start(fleet, home / name, "flclient", experiment.client_job(number, address))
        fleet.wait()
        return read_log(log).events


def round_times_s(events: list[tuple[Stamp, AnyEvent]]) -> list[float]:
    """Return the duration of every round, the warm-up's left out."""
    return [event.duration_s for _, event in events if isinstance(event, RoundEnded) and event.trial != WARMUP]


def boundaries_s(events: list[tuple[Stamp, AnyEvent]]) -> list[float]:
    """Return the times from the end of one trial to the first instruction of the next."""
    found: list[float] = []
    ended: Stamp | None = None
    for stamp, event in events:
        if isinstance(event, TrialEnded):
            ended = stamp
        elif isinstance(event, MessageSent) and ended is not None:
            found.append((stamp.mono_ns - ended.mono_ns) / 1e9)
            ended = None
    return found


def _start(fleet: Fleet, directory: Path, module: str, job: Job) -> None:
    directory.mkdir()
    path = directory / "job.json"
    path.write_bytes(msgspec.json.encode(job))
    fleet.start(directory, ["-m", module, str(path)])


def _address(log: Path) -> str | None:
    """Return where the server listens, once its log says so."""
    if not log.exists():
        return None
    return next((event.address for _, event in read_log(log).events if isinstance(event, Listening)), None)
