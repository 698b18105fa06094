"""What theory expects of a trial, and what its own parts add up to; pure arithmetic on rows.

Rounds are synchronous: a round lasts as long as its slowest client. For N clients with the same round time c without
delay, E[T] = R · (c + E[largest of N injected delays]).
"""

from __future__ import annotations

from itertools import chain
from statistics import median, median_high
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from deploy.analysis.rows import Dataset, Round, Trial
    from flcommon.delay import Delay

Source = Literal["trials without delay", "delays subtracted"]


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """The round time without delay: c = `round_s` seconds, the median of `rounds` rounds.

    `source` says whether those rounds had no delay to begin with, or had their largest measured one subtracted. The
    median, because one slow round (the first, with cold caches, or a busy moment) must not lift the whole curve.
    """

    round_s: float
    rounds: int
    source: Source


def baseline(trials: Iterable[Trial]) -> Baseline | None:
    """Return the round time without delay of complete `trials`; None when no round of theirs is known.

    All must share their settings apart from the delay. Without a trial that asked for no delay, every round's
    largest measured delay is subtracted from its duration: a little too much, where a delay overlapped with a slower
    client's compute time.
    """
    complete = [trial for trial in trials if trial.status == "complete"]
    plain = list(_round_times(trial for trial in complete if trial.undelayed))
    if plain:
        return Baseline(round_s=median(plain), rounds=len(plain), source="trials without delay")
    rest = list(_undelayed_times(complete))
    return Baseline(round_s=median(rest), rounds=len(rest), source="delays subtracted") if rest else None


def _rounds(trials: Iterable[Trial]) -> Iterator[Round]:
    return chain.from_iterable(trial.rounds for trial in trials)


def _round_times(trials: Iterable[Trial]) -> Iterator[float]:
    return (each.duration_s for each in _rounds(trials) if each.duration_s is not None)


def _undelayed_times(trials: Iterable[Trial]) -> Iterator[float]:
    for each in _rounds(trials):
        if each.duration_s is not None and each.covered:
            yield each.duration_s - max(client.measured_s or 0.0 for client in each.clients)


def clients_per_round(dataset: Dataset) -> int:
    """Return N: how many clients the server asked to train, in the median round; all of them if no log says."""
    asked = [each.asked for each in _rounds(dataset.complete) if each.asked]
    hosts = sum(record.role == "client" for record in dataset.manifest.hosts.values())
    return median_high(asked) if asked else hosts


def expected_s(rounds: float, round_s: float, delay: Delay | None, clients: int) -> float:
    """Return E[T] = `rounds` · (`round_s` + expected largest delay of `clients` clients), in seconds."""
    return rounds * (round_s + (delay.expected_slowest_s(clients) if delay else 0.0))


def drawn_s(trial: Trial) -> float | None:
    """Return the sum over rounds of the largest delay that was drawn, in seconds; None if a client's is not known."""
    if trial.undelayed:
        return 0.0
    draws = [[row.requested_s for row in each.clients] for each in trial.rounds if each.covered]
    known = [[draw for draw in each if draw is not None] for each in draws]
    whole = len(draws) == len(trial.rounds) and known == draws
    return sum(max(each) for each in known) if whole else None


def ideal_s(trial: Trial) -> float | None:
    """Return the trial's ideal time in seconds: over rounds, the sum of the slowest client's compute + injected delay.

    What is left of the trial's total is network, coordination and evaluation. Where one client's log is missing, it is
    a lower bound; where all are, None.
    """
    return known_sum(client.busy_s if (client := each.critical) else None for each in trial.rounds)


def known_sum(parts: Iterable[float | None]) -> float | None:
    """Return the sum; None when one of the parts is not known."""
    found = list(parts)
    known = [part for part in found if part is not None]
    return sum(known) if len(known) == len(found) else None
