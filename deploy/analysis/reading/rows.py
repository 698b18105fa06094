"""What a run measured, as frozen rows: trials hold rounds, rounds hold what each client did in them; no arithmetic."""

from __future__ import annotations

from typing import Literal

import msgspec
import polars as pl

from deploy.analysis.clocks.clock import ClockFound
from deploy.analysis.columns import OFFSETS, PHASES, ROUNDS, SAMPLES, TASKS, TRIPS, empty
from deploy.analysis.reading.messages import MessageRow
from deploy.analysis.reading.network import Network
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

    `asked` counts the clients that the server told to train, by the server's log; `control`: nothing was injected.
    """

    number: int
    started_s: float
    duration_s: float | None
    accuracy: float | None
    asked: int
    clients: tuple[ClientRound, ...]
    control: bool = False

    @property
    def covered(self) -> bool:
        """Whether the logs tell of every client that was asked to train."""
        return bool(self.clients) and len({row.client for row in self.clients}) >= self.asked

    @property
    def critical(self) -> ClientRound | None:
        """The client whose compute time plus injected delay was longest; None when no client's log tells."""
        return max(self.clients, key=lambda client: client.busy_s, default=None)


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
    messages: tuple[MessageRow, ...] = ()
    clocks: tuple[ClockFound, ...] = ()
    network: Network = Network()
    zero_ns: int = 0
    """The first stamp of the server's log, by its monotonic clock: from there `start_s` counts."""
    tasks: pl.DataFrame = msgspec.field(default_factory=lambda: empty(TASKS))
    phases: pl.DataFrame = msgspec.field(default_factory=lambda: empty(PHASES))
    rounds: pl.DataFrame = msgspec.field(default_factory=lambda: empty(ROUNDS))
    """Without the account's columns."""
    samples: pl.DataFrame = msgspec.field(default_factory=lambda: empty(SAMPLES))
    offsets: pl.DataFrame = msgspec.field(default_factory=lambda: empty(OFFSETS))
    trips: pl.DataFrame = msgspec.field(default_factory=lambda: empty(TRIPS))

    @property
    def complete(self) -> tuple[Trial, ...]:
        """The trials that were completed, whether or not they reached their target."""
        return tuple(trial for trial in self.trials if trial.status == "complete")
