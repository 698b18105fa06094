"""What a run measured: trials that hold rounds as frozen rows, all that is many as frames; no arithmetic."""

from __future__ import annotations

from typing import Literal

import msgspec
import polars as pl

from deploy.analysis.clocks.clock import ClockFound
from deploy.analysis.columns import MESSAGES, OFFSETS, PHASES, ROUNDS, SAMPLES, TASKS, TRIPS, empty
from deploy.analysis.reading.network import Network
from deploy.analysis.reading.works import WORKS
from deploy.manifest import Manifest, PlannedTrial

Status = Literal["complete", "failed", "unfinished", "not started"]


class ClientRound(msgspec.Struct, frozen=True, kw_only=True):
    """One client's training in one round; None where its log does not say.

    `requested_s` is the injected delay that was drawn, `measured_s` how long it really took.
    """

    client: str
    compute_s: float | None
    requested_s: float | None
    measured_s: float | None

    @property
    def busy_s(self) -> float:
        """Compute time plus measured injected delay in seconds; what is unknown counts as 0."""
        return (self.compute_s or 0.0) + (self.measured_s or 0.0)


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One round: `started_s` after the first round of its trial began; evaluation is part of `duration_s`.

    `asked` counts the clients that the server told to train, by the server's log, `told` those whose own logs tell of
    it; `control`: nothing was injected. Of the clients, `critical` is the one whose compute time plus injected delay
    was longest (None when no client's log tells), `drawn_s` the largest delay drawn (None where one is not known), and
    `delayed_s` the largest measured.
    """

    number: int
    started_s: float
    duration_s: float | None
    accuracy: float | None
    asked: int
    told: int = 0
    critical: ClientRound | None = None
    drawn_s: float | None = None
    delayed_s: float = 0.0
    control: bool = False

    @property
    def covered(self) -> bool:
        """Whether the logs tell of every client that was asked to train."""
        return self.told > 0 and self.told >= self.asked


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One trial: what was planned and what came of it.

    `total_s` runs from the first round's start to the last round's end, or to the moment the target was reached
    when the playbook has one; None unless the trial is complete. `rounds` are those that began.
    """

    plan: PlannedTrial
    status: Status
    total_s: float | None
    target_s: float | None
    accuracy: float | None
    rounds: tuple[Round, ...]

    @property
    def censored(self) -> bool:
        """Whether the trial is complete but ended without reaching its target: `total_s` is a lower bound."""
        return self.status == "complete" and self.plan.stop is not None and self.target_s is None

    @property
    def timed(self) -> bool:
        """Whether `total_s` is the training time that figures and tables show."""
        return self.status == "complete" and not self.censored

    @property
    def undelayed(self) -> bool:
        """Whether no delay was asked for: no `delay`, or probability 0."""
        return self.plan.delay is None or self.plan.delay.probability == 0


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """A run: its manifest, its trials in the order of the plan, each host's versions, and what was wrong.

    `messages` are all that the server sent and got, `clocks` and `network` what was found of each client's.
    """

    manifest: Manifest
    trials: tuple[Trial, ...]
    versions: dict[str, dict[str, str]]
    problems: tuple[str, ...]
    clocks: tuple[ClockFound, ...] = ()
    network: Network = Network()
    messages: pl.DataFrame = msgspec.field(default_factory=lambda: empty(MESSAGES))
    works: pl.DataFrame = msgspec.field(default_factory=lambda: pl.DataFrame(schema=WORKS))
    """What each client did in each round, by its own log."""
    tasks: pl.DataFrame = msgspec.field(default_factory=lambda: empty(TASKS))
    phases: pl.DataFrame = msgspec.field(default_factory=lambda: empty(PHASES))
    rounds: pl.DataFrame = msgspec.field(default_factory=lambda: empty(ROUNDS))
    """Without the account's columns."""
    samples: pl.DataFrame = msgspec.field(default_factory=lambda: empty(SAMPLES))
    offsets: pl.DataFrame = msgspec.field(default_factory=lambda: empty(OFFSETS))

    zero_ns: int = 0
    """Where `start_s` counts from, on the server's monotonic clock."""
    processes: dict[str, int] = {}
    """How many processes each host had."""
    trips: pl.DataFrame = msgspec.field(default_factory=lambda: empty(TRIPS))

    @property
    def complete(self) -> tuple[Trial, ...]:
        """The trials that were completed, whether or not they reached their target."""
        return tuple(trial for trial in self.trials if trial.status == "complete")
