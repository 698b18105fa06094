"""What theory expects of a trial, and what its own parts add up to; pure arithmetic on rows.

Rounds are synchronous: a round lasts as long as its slowest client. For N clients with the same round time c without
delay, E[T] = R · (c + E[largest of N injected delays]); where first rounds are slower, they take as much longer as they
do without delay.
"""

from __future__ import annotations

from itertools import chain
from statistics import median, median_high
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from deploy.analysis.reading.rows import Dataset, Round, Trial
    from flcommon.delay import Delay

Source = Literal["trials without delay", "delays subtracted"]


class Baseline(msgspec.Struct, frozen=True, kw_only=True):
    """The round time without delay: c = `round_s` seconds, the median of `rounds` rounds.

    Where links are injected, it is with them, and `control_s` that of the control rounds, if there are any. `source`
    says whether those rounds had no delay to begin with, or had their largest measured one subtracted. The median,
    because one slow round (a busy moment) must not lift the whole curve; `settling` first rounds of trials are not
    counted besides: `settling_s` is what they take beyond c in a trial, the mean of the trials that c is of.
    """

    round_s: float
    rounds: int
    source: Source
    control_s: float | None = None
    settling: int = 0
    settling_s: float = 0.0


def baseline(trials: Iterable[Trial], slow: Collection[tuple[int, int]] = ()) -> Baseline | None:
    """Return the round time without delay of complete `trials`; None when no round of theirs is known.

    `slow` are the rounds that are settling, by trial and number: they do not count. All trials must share their
    settings apart from the delay. Without a trial that asked for no delay, every round's largest measured delay is
    subtracted from its duration: a little too much, where a delay overlapped with a slower client's compute time.
    """
    complete = [trial for trial in trials if trial.status == "complete"]
    settled = [(t, each) for t in complete for each in t.rounds if (t.plan.index, each.number) not in slow]
    control = list(_times(each for trial, each in settled if trial.plan.links and each.control))
    control_s = median(control) if control else None
    # without links, a control round is one without delay
    rounds = [(trial, each) for trial, each in settled if control_s is None or not each.control]
    plain = list(_times(each for trial, each in rounds if trial.undelayed))
    times = plain or list(_undelayed_times(each for _, each in rounds))
    if not times:
        return None
    own = [trial for trial in complete if trial.undelayed or not plain]
    first = [each for trial in own for each in trial.rounds if (trial.plan.index, each.number) in slow]
    late = list(_times(first) if plain else _undelayed_times(first))
    return Baseline(
        round_s=median(times),
        rounds=len(times),
        source="trials without delay" if plain else "delays subtracted",
        control_s=control_s,
        settling=len(first),
        settling_s=sum(each - median(times) for each in late) / len(own),
    )


def _rounds(trials: Iterable[Trial]) -> Iterator[Round]:
    return chain.from_iterable(trial.rounds for trial in trials)


def _times(rounds: Iterable[Round]) -> Iterator[float]:
    return (each.duration_s for each in rounds if each.duration_s is not None)


def _undelayed_times(rounds: Iterable[Round]) -> Iterator[float]:
    for each in rounds:
        if each.duration_s is not None and each.covered:
            yield each.duration_s - each.delayed_s


def clients_per_round(dataset: Dataset) -> int:
    """Return N: how many clients the server asked to train, in the median round; all of them if no log says."""
    asked = [each.asked for each in _rounds(dataset.complete) if each.asked]
    hosts = sum(record.role == "client" for record in dataset.manifest.hosts.values())
    return median_high(asked) if asked else hosts


def expected_s(rounds: float, base: Baseline, delay: Delay | None, clients: int, injected: float = 1.0) -> float:
    """Return E[T] in seconds: `rounds` · (c + expected largest delay of `clients` clients), and what settling takes.

    `injected` is the share of rounds that are no control rounds; those have no delay, and no link.
    """
    with_s = base.round_s + (delay.expected_slowest_s(clients) if delay else 0.0)
    without_s = base.round_s if base.control_s is None else base.control_s
    return rounds * (injected * with_s + (1 - injected) * without_s) + (base.settling_s if rounds else 0.0)


def drawn_s(trial: Trial) -> float | None:
    """Return the sum over rounds of the largest delay that was drawn, in seconds; None if a client's is not known."""
    if trial.undelayed:
        return 0.0
    delayed = [each for each in trial.rounds if not each.control]
    return known_sum(each.drawn_s if each.covered else None for each in delayed)


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
