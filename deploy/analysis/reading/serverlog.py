"""What the server's log says about each trial: when rounds began, how long they took, what the app reported."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import polars as pl

from deploy.analysis.reading.rows import ClientRound, Round
from flcommon.events import (
    Metrics,
    OfTrial,
    Resumed,
    RoundEnded,
    RoundStarted,
    Switched,
    TargetReached,
    TrialEnded,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from deploy.analysis.reading.rows import Status
    from flcommon.events import AnyEvent, Stamp

METRIC = "accuracy"
SOURCES = ("central", "evaluate")
"""Whose accuracy counts: the ServerApp's own, else what clients evaluated; never that of training."""


@dataclass
class TrialLog:
    """One trial as far as the server's log has told; moments in nanoseconds of its monotonic clock."""

    started_ns: dict[int, int] = field(default_factory=dict)
    duration_s: dict[int, float] = field(default_factory=dict)
    control: set[int] = field(default_factory=set)
    accuracy: dict[tuple[int, str], float] = field(default_factory=dict)
    pauses: list[tuple[int, int]] = field(default_factory=list)
    """When a pause was over, for pulling logs or before a control round, and how long it was: both in nanoseconds."""
    target_ns: int | None = None
    ended: TrialEnded | None = None

    def note(self, stamp: Stamp, event: OfTrial) -> None:
        """Take in one event of this trial."""
        match event:
            case RoundStarted():
                self.started_ns[event.round] = stamp.mono_ns
                self.control |= {event.round} if event.control else set()
            case RoundEnded():
                self.duration_s[event.round] = event.duration_s
            case Metrics() if METRIC in event.values:
                self.accuracy[event.round, event.source] = event.values[METRIC]
            case Resumed() | Switched():
                self.pauses.append((stamp.mono_ns, round(event.duration_s * 1e9)))
            case TargetReached():
                self.target_ns = stamp.mono_ns
            case TrialEnded():
                self.ended = event
            case _:
                pass

    @property
    def status(self) -> Status:
        """How the trial ended."""
        if self.ended is None:
            return "unfinished"
        return "complete" if self.ended.ok else "failed"

    @property
    def first_ns(self) -> int | None:
        """When the first round began."""
        return min((ns for number, ns in self.started_ns.items() if number > 0), default=None)

    @property
    def target_s(self) -> float | None:
        """Seconds from the first round's start to the target; 0 when the initial model already met it."""
        if self.target_ns is None:
            return None
        return max(0.0, self._since_first_s(self.target_ns)) if self.first_ns is not None else 0.0

    @property
    def last_accuracy(self) -> float | None:
        """The accuracy of the last evaluation; the central one where both kinds exist."""
        last = max((number for number, source in self.accuracy if source in SOURCES), default=0)
        return self.accuracy_of(last)

    def accuracy_of(self, number: int) -> float | None:
        """Return the accuracy of round `number`, None if it was not evaluated."""
        found = (self.accuracy[number, source] for source in SOURCES if (number, source) in self.accuracy)
        return next(found, None)

    def rounds(self, clients: Mapping[int, Trained]) -> tuple[Round, ...]:
        """Return the rounds that began, each with what its `clients` (by round) did."""
        return tuple(
            Round(
                number=number,
                started_s=self._since_first_s(ns),
                duration_s=self.duration_s.get(number),
                accuracy=self.accuracy_of(number),
                control=number in self.control,
                **clients.get(number, Trained())._asdict(),
            )
            for number, ns in sorted(self.started_ns.items())
            if number > 0
        )

    def _since_first_s(self, ns: int) -> float:
        """Return the seconds from the first round's start to a moment, without the pauses in between."""
        first = self.first_ns or 0
        return (ns - first - sum(long for over, long in self.pauses if first < over <= ns)) / 1e9


def trial_logs(events: Iterable[tuple[Stamp, AnyEvent]]) -> dict[int, TrialLog]:
    """Return what the server's events tell of each trial, by its index in the plan."""
    logs: defaultdict[int, TrialLog] = defaultdict(TrialLog)
    for stamp, event in events:
        if isinstance(event, OfTrial):
            logs[event.trial].note(stamp, event)
    return dict(logs)


class Trained(NamedTuple):
    """What clients did in a round, as `Round` tells it."""

    asked: int = 0
    told: int = 0
    critical: ClientRound | None = None
    drawn_s: float | None = None
    delayed_s: float = 0.0


def trained(asked: pl.DataFrame, works: pl.DataFrame) -> dict[int, dict[int, Trained]]:
    """Return what clients did by trial and round; `asked` are rows of training that the server asked for."""
    busy_s = pl.col("compute_s").fill_null(0.0) + pl.col("measured_s").fill_null(0.0)
    critical = pl.struct("client", "compute_s", "requested_s", "measured_s")
    told = works.group_by("trial", "round").agg(
        pl.col("client").n_unique().alias("told"),
        critical.get(busy_s.arg_max()).alias("critical"),
        pl.when(pl.col("requested_s").is_not_null().all()).then(pl.col("requested_s").max()).alias("drawn_s"),
        pl.col("measured_s").max().fill_null(0.0).clip(lower_bound=0.0).alias("delayed_s"),
    )
    counts = asked.group_by("trial", "round").agg(pl.col("client").n_unique().alias("asked"))
    found: dict[int, dict[int, Trained]] = defaultdict(dict)
    for row in counts.join(told, on=("trial", "round"), how="full", coalesce=True).iter_rows(named=True):
        slowest = row.pop("critical")
        trial, number = row.pop("trial"), row.pop("round")
        known = {name: value for name, value in row.items() if value is not None}
        found[trial][number] = Trained(**known, critical=ClientRound(**slowest) if slowest else None)
    return found
