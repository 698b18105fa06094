"""Builds run directories whose every number is known: real logs, written with made-up moments on separate clocks."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from deploy.analysis.page.sections import Picture
from deploy.analysis.reading.rows import Round, Trial
from deploy.manifest import SCHEMA_VERSION, HostRecord, Manifest, PlannedTrial
from flcommon.delay import Constant, Delay, Draw, Seconds, draw_s
from flcommon.eventlog import EventLog, Moment
from flcommon.events import (
    ClockExchange,
    ComputeEnded,
    ComputeStarted,
    Delayed,
    Event,
    JobAccepted,
    MessageReceived,
    MessageSent,
    Metrics,
    ReplyReceived,
    ReplySent,
    Resumed,
    RoundEnded,
    RoundStarted,
    TargetReached,
    TrialEnded,
    TrialOpened,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path
    from types import ModuleType

    from deploy.analysis.figures.figure import Figure

CLIENTS = ("pi4-a", "pi4-b", "pc-c")
NS = 1_000_000_000
DAY_NS = 1_700_000_000 * NS
SENT = {"size_bytes": 248024, "wire_bytes": 248200, "encode_s": 0.001, "queue_s": 0.0, "send_s": 0.001}
RECEIVED = {"size_bytes": 248024, "wire_bytes": 248200, "receive_s": 0.0, "decode_s": 0.001}


@dataclass(frozen=True)
class Work:
    """One client in one round, seconds."""

    compute_s: float
    requested_s: float = 0.0
    measured_s: float = 0.0


@dataclass(frozen=True)
class FakeRound:
    """One round: what each client did, and the seconds that neither compute nor delay explains."""

    works: Mapping[str, Work]
    rest_s: float = 0.0
    accuracy: float | None = None

    @property
    def duration_s(self) -> float:
        return max(work.compute_s + work.measured_s for work in self.works.values()) + self.rest_s


@dataclass(frozen=True)
class FakeTrial:
    """One trial; between its rounds the experiment is paused for `pause_s` seconds."""

    plan: PlannedTrial
    rounds: Sequence[FakeRound]
    ok: bool = True
    ended: bool = True
    reached: bool = False
    pause_s: float = 0.0

    @property
    def total_s(self) -> float:
        return sum(each.duration_s for each in self.rounds)


def plan(index: int, delay: Delay | None = None, **changes: Any) -> PlannedTrial:
    settings: dict[str, Any] = {}
    if delay is not None:
        size = delay.seconds.seconds if isinstance(delay.seconds, Constant) else msgspec.to_builtins(delay.seconds)
        settings = {"delay.probability": delay.probability, "delay.seconds": size}
    base = PlannedTrial(
        index=index, condition=index, repeat=0, schedule=0, seed=1, rounds=3,
        settings=settings, run_config={}, delay=delay,
    )  # fmt: skip
    return msgspec.structs.replace(base, **changes)


@dataclass
class Writer:
    """One process's log, on a monotonic clock that starts at `mono_s`."""

    log: EventLog
    mono_s: float

    def write(self, at_s: float, event: Event) -> None:
        ns = round((self.mono_s + at_s) * NS)
        self.log.write(event, Moment(ns, ns + DAY_NS))


@dataclass
class FakeRun:
    """A run directory that is being made; `write` makes it.

    The logs of a `whole` one tell of messages and clocks too: half of a round's rest is the way there, half the way
    back.
    """

    folder: Path
    trials: Sequence[FakeTrial]
    clients: Sequence[str] = CLIENTS
    status: str = "complete"
    error: str | None = None
    lab: str = "bench-1"
    whole: bool = False
    facts: dict[str, Any] = field(default_factory=lambda: {"machine": "aarch64", "cores": 4})

    def write(self) -> Path:
        writers = {name: self._open(name, number) for number, name in enumerate(("server", *self.clients))}
        at_s = 1.0
        for trial in self.trials:
            at_s = self._trial(writers, trial, at_s) + 0.5
        for writer in writers.values():
            writer.log.close()
        (self.folder / "manifest.json").write_bytes(msgspec.json.encode(self.manifest))
        return self.folder

    @property
    def manifest(self) -> Manifest:
        roles = {"server": "server"} | dict.fromkeys(self.clients, "client")
        return Manifest(
            schema=SCHEMA_VERSION, campaign="c-1", lab=self.lab, playbook="paper-figure-4",
            app="flclient.apps.cifar10", created_utc="2025-11-23T16:00:00Z", status=self.status, error=self.error,  # type: ignore[arg-type]
            versions={"fieldlab": "0.1.0", "python": "3.11.9"}, code_digest="sha256:abc", inventory={},
            playbook_resolved={}, trials=tuple(trial.plan for trial in self.trials),
            hosts={name: HostRecord(role=role, facts=self.facts) for name, role in roles.items()},  # type: ignore[arg-type]
            phases_s={"connect": 0.4, "run": 90.0},
        )  # fmt: skip

    def log(self, host: str) -> Path:
        return self.folder / "raw" / host / "events.jsonl"

    def _open(self, name: str, number: int) -> Writer:
        self.log(name).parent.mkdir(parents=True)
        writer = Writer(EventLog(self.log(name)), mono_s=1000.0 * number)
        role = "server" if name == "server" else "client"
        versions = {"python": "3.11.2", "flwr": "1.41.0"}
        writer.write(
            0.0,
            JobAccepted(role=role, host=name, campaign="c-1", pid=7, versions=versions, job=msgspec.Raw(b"{}")),
        )
        return writer

    def _trial(self, writers: Mapping[str, Writer], trial: FakeTrial, at_s: float) -> float:
        server, index = writers["server"], trial.plan.index
        server.write(at_s - 0.1, TrialOpened(trial=index))
        for number, each in enumerate(trial.rounds, 1):
            if trial.pause_s and number > 1:
                at_s += trial.pause_s
                pause = {"trial": index, "round": number - 1, "number": number - 1}
                server.write(at_s, Resumed(**pause, duration_s=trial.pause_s, by="controller"))
            self._round(writers, (index, number), each, at_s)
            at_s += each.duration_s
        if trial.reached:
            server.write(at_s, TargetReached(trial=index, round=len(trial.rounds), metric="accuracy", value=0.9))
        if trial.ended:
            done = TrialEnded(trial=index, ok=trial.ok, rounds=len(trial.rounds), duration_s=trial.total_s)
            server.write(at_s, done)
        return at_s

    def _round(self, writers: Mapping[str, Writer], place: tuple[int, int], each: FakeRound, at_s: float) -> None:
        server, (trial, number) = writers["server"], place
        server.write(at_s, RoundStarted(trial=trial, round=number))
        for client, work in each.works.items():
            message = {"trial": trial, "round": number, "message": f"m{trial}-{number}-{client}", "client": client}
            server.write(at_s, MessageSent(**message, kind="train", **SENT))
            if self.whole:
                self._talk(writers, message, work, (at_s, each.rest_s / 2))
            _train(writers[client], message, work, at_s + each.rest_s / 2)
        for client, work in sorted(each.works.items(), key=lambda item: item[1].compute_s + item[1].measured_s):
            message = {"trial": trial, "round": number, "message": f"m{trial}-{number}-{client}", "client": client}
            there_s = work.compute_s + work.measured_s + each.rest_s if self.whole else each.duration_s
            server.write(at_s + there_s, ReplyReceived(**message, kind="train", **RECEIVED))
        if each.accuracy is not None:
            values = {"accuracy": each.accuracy, "loss": 1.0}
            server.write(at_s + each.duration_s, Metrics(trial=trial, round=number, source="central", values=values))
        server.write(at_s + each.duration_s, RoundEnded(trial=trial, round=number, duration_s=each.duration_s))

    def _talk(
        self, writers: Mapping[str, Writer], message: dict[str, Any], work: Work, way: tuple[float, float]
    ) -> None:
        """Write what the client tells of its message, and a comparison of clocks; `way`: when it left, how long."""
        (at_s, way_s), client = way, writers[message["client"]]
        here_s, done_s = at_s + way_s, at_s + way_s + work.compute_s + work.measured_s
        known = {"receive_s": 0.0, "queue_s": 0.0, "decode_s": 0.0}
        size = {"size_bytes": SENT["size_bytes"], "wire_bytes": SENT["wire_bytes"]}
        client.write(here_s, MessageReceived(**message, kind="train", **size, **known))
        sent = SENT | {"encode_s": 0.0}
        client.write(done_s, ReplySent(**message, kind="train", **sent))
        server_ns, client_ns = (round((log.mono_s + at_s) * NS) for log in (writers["server"], client))
        writers["server"].write(
            at_s + 0.002,
            ClockExchange(
                client=message["client"],
                server_sent_mono_ns=server_ns,
                server_sent_wall_ns=server_ns + DAY_NS,
                client_received_mono_ns=client_ns + NS // 1000,
                client_received_wall_ns=client_ns + NS // 1000 + DAY_NS,
                client_sent_mono_ns=client_ns + NS // 1000,
                client_sent_wall_ns=client_ns + NS // 1000 + DAY_NS,
            ),
        )


def _train(writer: Writer, message: dict[str, Any], work: Work, at_s: float) -> None:
    writer.write(at_s, ComputeStarted(**message, kind="train"))
    writer.write(at_s + work.compute_s, ComputeEnded(**message, kind="train", cpu_s=work.compute_s))
    end_s = at_s + work.compute_s + work.measured_s
    writer.write(end_s, Delayed(**message, kind="train", requested_s=work.requested_s, measured_s=work.measured_s))


def drawn_round(
    delay: Delay, place: tuple[int, int], noise: Callable[[], float], clients: Sequence[str] = CLIENTS
) -> FakeRound:
    """Make a round with the product's own draws, clients of about 0.3 s compute, and about 0.1 s for all else.

    `place` is the delays' schedule, and the round's number.
    """
    works, (schedule, number) = {}, place
    for client in clients:
        want = draw_s(delay, Draw(seed=1, client=client, schedule=schedule, round=number))
        works[client] = Work(0.3 + 0.01 * noise(), want, want + (0.0002 + 0.0001 * noise() if want else 0.0))
    return FakeRound(works, rest_s=0.1 + 0.02 * noise(), accuracy=0.1 + 0.1 * number)


def sweep(
    sizes: Sequence[Seconds],
    repeats: int,
    rounds: int,
    noise: Callable[[], float],
    clients: Sequence[str] = CLIENTS,
) -> list[FakeTrial]:
    """Make the trials of a figure 4: probability 0 to 1 by 0.2, times `sizes`, times `repeats`."""
    conditions = [Delay(p / 5, size) for size in sizes for p in range(6)]
    trials = []
    for repeat in range(repeats):
        for condition, delay in enumerate(conditions):
            index = repeat * len(conditions) + condition
            planned = plan(index, delay, condition=condition, repeat=repeat, schedule=index, rounds=rounds)
            made = [drawn_round(delay, (index, number), noise, clients) for number in range(1, rounds + 1)]
            trials.append(FakeTrial(planned, made))
    return trials


def simple_round(busy_s: float, delay_s: float = 0.0, rest_s: float = 0.0, accuracy: float | None = None) -> FakeRound:
    """Make a round in which the last client is the slowest, by a lot."""
    works = {client: Work(busy_s / 2) for client in CLIENTS[:-1]}
    works[CLIENTS[-1]] = Work(busy_s, delay_s, delay_s)
    return FakeRound(works, rest_s, accuracy)


def measured_trial(planned: PlannedTrial, busy_s: Sequence[float], rest_s: Sequence[float]) -> Trial:
    """Make a complete trial as it is read, without a log: by round, the slowest client's time and the rest."""
    rounds = tuple(
        Round(number=number, started_s=0.0, duration_s=busy + rest, accuracy=None, asked=0)
        for number, (busy, rest) in enumerate(zip(busy_s, rest_s, strict=True), 1)
    )
    total_s = sum(each.duration_s or 0.0 for each in rounds)
    return Trial(plan=planned, status="complete", total_s=total_s, target_s=None, accuracy=None, rounds=rounds)


def timed_trial(planned: PlannedTrial, total_s: float, *, reached: bool = True) -> Trial:
    """Make a complete trial of which nothing is known but how long it took, and whether it reached its target."""
    target_s = total_s if reached and planned.stop is not None else None
    return Trial(plan=planned, status="complete", total_s=total_s, target_s=target_s, accuracy=None, rounds=())


def pictures(found: Iterable[Figure]) -> list[Picture]:
    """Return figures for a page without drawing them; what stands in for the drawn ones is as high as most are."""
    from deploy.analysis.figures.render import on_page  # noqa: PLC0415 - Altair takes half a second to import

    return [Picture.of(each, on_page(each), '<svg height="300"></svg>') for each in found]


@pytest.fixture(scope="session")
def kit() -> ModuleType:
    """This module: what tests build with."""
    return sys.modules[__name__]
