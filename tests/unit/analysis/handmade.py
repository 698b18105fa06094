"""Tasks, phases and rounds made by hand: every duration is said in milliseconds, and none is drawn."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from deploy.analysis.columns import PHASES, ROUNDS, TASKS
from deploy.analysis.reading.rows import Dataset, Trial
from flcommon.eventlog import EventLog
from flcommon.events import (
    ClockExchange,
    ComputeEnded,
    ComputeStarted,
    Delayed,
    Event,
    JobAccepted,
    MessageReceived,
    MessageSent,
    PhaseEnded,
    ReplyReceived,
    ReplySent,
    RoundEnded,
    RoundStarted,
    TrialEnded,
)

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

MS = 1_000_000
TOLD = ("trial", "round", "condition", "repeat", "control", "started_ns", "ended_ns", "since_s", "round_s", "accuracy")


@dataclass(frozen=True)
class Life:
    """One task, in the order of its steps, in milliseconds; `rest` is what the client did and did not log."""

    encode: float = 0.0
    queue: float = 0.0
    down: float = 0.0
    link_down: float = 0.0
    client_queue: float = 0.0
    client_decode: float = 0.0
    compute: float = 0.0
    rest: float = 0.0
    delay: float | None = None
    up_encode: float = 0.0
    up_queue: float = 0.0
    up: float = 0.0
    link_up: float = 0.0
    decode: float = 0.0

    @property
    def client(self) -> float:
        """On the client, from the whole instruction to the reply's first byte."""
        own = (self.client_queue, self.client_decode, self.compute, self.rest, self.up_encode, self.up_queue)
        return sum(own) + (self.delay or 0.0)

    @property
    def round_trip(self) -> float:
        """On the server, from the instruction's first byte to the whole reply."""
        return self.down + self.link_down + self.client + self.up + self.link_up

    @property
    def whole(self) -> float:
        """From the start of encoding to the decoded reply."""
        return self.encode + self.queue + self.round_trip + self.decode


@dataclass
class Log:
    """What a run's logs would tell, all moments in milliseconds of the server's clock."""

    tasks: list[dict[str, Any]] = field(default_factory=list)
    phases: list[dict[str, Any]] = field(default_factory=list)
    rounds: list[dict[str, Any]] = field(default_factory=list)
    lives: list[tuple[int, str, str, float, Life]] = field(default_factory=list)

    def round(self, number: int, start: float, end: float | None, **more: Any) -> None:
        """Tell of a round of trial 0; without an end it was cut off."""
        row = {"trial": 0, "condition": 0, "repeat": 0, "control": False, "round": number, "since_s": start / 1000}
        row |= {"started_ns": round(start * MS), "ended_ns": None if end is None else round(end * MS)}
        self.rounds.append(row | {"round_s": None if end is None else (end - start) / 1000} | more)

    def phase(self, number: int, name: str, start: float, end: float, trial: int = 0) -> None:
        self.phases.append(
            {"trial": trial, "round": number, "phase": name, "duration_s": (end - start) / 1000}
            | {"started_ns": round(start * MS), "ended_ns": round(end * MS)}
        )

    def task(self, number: int, client: str, start: float, life: Life, **more: Any) -> float:
        """Tell of a task that the server began to encode at `start`; return when its reply was decoded."""
        sent = start + life.encode + life.queue
        row: dict[str, Any] = dict.fromkeys(TASKS.schema) | {
            "trial": 0, "round": number, "control": False, "message": f"0-{len(self.tasks)}", "client": client,
            "kind": "train", "sent_ns": round(sent * MS), "reply_received_ns": round((sent + life.round_trip) * MS),
            "uncertainty_s": 0.0005, "flags": "",
        }  # fmt: skip
        durations = {
            "down_encode": life.encode, "down_queue": life.queue, "down": life.down + life.link_down,
            "down_injected": life.link_down, "client_queue": life.client_queue, "client_decode": life.client_decode,
            "compute": life.compute, "delay_requested": life.delay, "delay": life.delay, "up_encode": life.up_encode,
            "up_queue": life.up_queue, "up": life.up + life.link_up, "up_injected": life.link_up,
            "server_decode": life.decode, "client": life.client, "round_trip": life.round_trip,
        }  # fmt: skip
        row |= {f"{name}_s": None if long is None else long / 1000 for name, long in durations.items()}
        self.tasks.append(row | more)
        self.lives.append((number, client, row["kind"] if "kind" not in more else more["kind"], start, life))
        return start + life.whole

    def dataset(self, kit: ModuleType, status: str = "complete") -> Dataset:
        """Return the data set of a run that tells this."""
        indices = sorted({row["trial"] for row in self.rounds})
        plans = [kit.plan(index) for index in indices]
        trials = tuple(
            Trial(plan=plan, status=status, total_s=None, target_s=None, accuracy=None, rounds=())  # type: ignore[arg-type]
            for plan in plans
        )
        return Dataset(
            manifest=kit.FakeRun(None, [kit.FakeTrial(plan, []) for plan in plans]).manifest,
            trials=trials,
            versions={},
            problems=(),
            tasks=pl.DataFrame(self.tasks, schema=TASKS.schema),
            phases=pl.DataFrame(self.phases, schema=PHASES.schema),
            rounds=pl.DataFrame(self.rounds, schema={name: ROUNDS.schema[name] for name in TOLD}),
        )


def events(log: Log) -> dict[str, list[tuple[float, Event]]]:
    """Return what each host writes of it, and a comparison of clocks every 100 ms; moments in ms."""
    told: dict[str, list[tuple[float, Event]]] = {"server": []}
    for row in log.rounds:
        place = {"trial": 0, "round": row["round"]}
        start, end = row["started_ns"] / MS, row["ended_ns"] / MS
        told["server"] += [(start, RoundStarted(**place)), (end, RoundEnded(**place, duration_s=row["round_s"]))]
    for row in log.phases:
        event = PhaseEnded(trial=0, round=row["round"], phase=row["phase"], duration_s=row["duration_s"])
        told["server"].append((row["ended_ns"] / MS, event))
    for task in log.lives:
        for host, at, event in _of_task(*task):
            told.setdefault(host, []).append((at, event))
    end = max(row["ended_ns"] for row in log.rounds) / MS
    told["server"].append((end, TrialEnded(trial=0, ok=True, rounds=len(log.rounds), duration_s=end / 1000)))
    return told


def _of_task(number: int, client: str, kind: str, start: float, life: Life) -> list[tuple[str, float, Event]]:
    place = {"trial": 0, "round": number, "message": f"0-{number}-{client}-{start}", "client": client, "kind": kind}
    size = {"size_bytes": 9, "wire_bytes": 9}
    s = {name: (long or 0.0) / 1000 for name, long in asdict(life).items()}
    sent = start + life.encode + life.queue
    here = sent + life.down
    called = here + life.client_queue + life.client_decode
    done = called + life.compute
    gone = here + life.client
    back = sent + life.round_trip
    found: list[tuple[str, float, Event]] = [
        ("server", sent, MessageSent(**place, **size, encode_s=s["encode"], queue_s=s["queue"], send_s=0.0)),
        (client, here, MessageReceived(**place, **size, receive_s=0.0, queue_s=s["client_queue"],
                                       decode_s=s["client_decode"])),
        (client, called, ComputeStarted(**place)),
        (client, done, ComputeEnded(**place, cpu_s=s["compute"])),
        (client, gone, ReplySent(**place, **size, encode_s=s["up_encode"], queue_s=s["up_queue"], send_s=0.0)),
        ("server", back, ReplyReceived(**place, **size, receive_s=0.0, decode_s=s["decode"])),
    ]  # fmt: skip
    if life.delay is not None:
        found.append((client, done + life.delay, Delayed(**place, requested_s=s["delay"], measured_s=s["delay"])))
    return found


def write(log: Log, kit: ModuleType, place: Path) -> Path:
    """Write a run directory whose hosts' logs tell this, each by a clock of its own."""
    told = events(log)
    fake = kit.FakeRun(place, [kit.FakeTrial(kit.plan(0), [])], clients=tuple(told)[1:])
    end = max(at for own in told.values() for at, _ in own)
    for number, (host, own) in enumerate(told.items()):
        fake.log(host).parent.mkdir(parents=True)
        role = "server" if host == "server" else "client"
        job = JobAccepted(role=role, host=host, campaign="c-1", pid=7, versions={}, job=kit.msgspec.Raw(b"{}"))
        writer = kit.Writer(EventLog(fake.log(host)), mono_s=1000.0 * number)
        clocks = [one for client in range(1, len(told)) for one in _clocks(kit, list(told)[client], client, end)]
        for at, event in sorted([(0.0, job), *own, *(clocks if host == "server" else [])], key=lambda one: one[0]):
            writer.write(1.0 + at / 1000, event)
        writer.log.close()
    (place / "manifest.json").write_bytes(kit.msgspec.json.encode(fake.manifest))
    return place


def _clocks(kit: ModuleType, client: str, number: int, end: float) -> list[tuple[float, Event]]:
    """Return comparisons of clocks that take a tenth of a millisecond each way."""
    found: list[tuple[float, Event]] = []
    for at in range(0, round(end), 100):
        sent_ns = kit.NS + at * MS
        here_ns = 1000 * number * kit.NS + sent_ns + MS // 10
        day_ns = 1_700_000_000 * kit.NS
        event = ClockExchange(
            client=client, server_sent_mono_ns=sent_ns, server_sent_wall_ns=sent_ns + day_ns,
            client_received_mono_ns=here_ns, client_received_wall_ns=here_ns + day_ns,
            client_sent_mono_ns=here_ns, client_sent_wall_ns=here_ns + day_ns,
        )  # fmt: skip
        found.append((at + 0.2, event))
    return found


NO_CLOCK = dict.fromkeys(
    ("down_s", "up_s", "received_ns", "compute_started_ns", "delay_ended_ns", "reply_sent_ns", "uncertainty_s")
)
"""What is not known of a task whose client's clock could not be compared."""
NO_LOG = NO_CLOCK | dict.fromkeys(
    (
        "down_injected_s", "client_queue_s", "client_decode_s", "compute_s", "cpu_s", "delay_requested_s", "delay_s",
        "up_encode_s", "up_queue_s", "up_injected_s", "client_s",
    )
)  # fmt: skip
"""What is not known of a task whose client's log is missing."""
NO_REPLY = NO_LOG | dict.fromkeys(("reply_received_ns", "server_decode_s", "round_trip_s"))
"""What is not known of a task that nobody answered."""
