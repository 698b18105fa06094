"""How much longer a campaign will take: from the plan's injected delays and the rounds that are over."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deploy.manifest import PlannedTrial
    from deploy.view import Trials


class Estimate:
    """Counts rounds as they end. What a round takes without its delay is the mean of those seen so far.

    A trial whose number of rounds only the app knows (0) is taken to have as many as those that have ended had on
    average; before the first has, nothing is known.
    """

    def __init__(self, plan: Trials) -> None:
        clients = len(plan.clients)
        self._trials = {trial.index: trial for trial in plan.trials}
        self._injected_s = {trial.index: _injected_s(trial, clients) for trial in plan.trials}
        self._left = {trial.index: trial.rounds for trial in plan.trials}
        self._unknown = {trial.index for trial in plan.trials if not trial.rounds}
        self._counts: dict[int, int] = {}
        self._ended: list[int] = []
        self._seen = 0
        self._own_s = 0.0

    def round_ended(self, trial: int, duration_s: float) -> None:
        """Count a round that took `duration_s` seconds."""
        self._seen += 1
        self._own_s += duration_s - self._injected_s[trial]
        self._counts[trial] = self._counts.get(trial, 0) + 1
        self._left[trial] = max(0, self._left[trial] - 1)

    def trial_ended(self, trial: int) -> None:
        """Count a trial as over, also if it stopped early."""
        self._left[trial] = 0
        self._unknown.discard(trial)
        self._ended.append(self._counts.get(trial, 0))

    @property
    def left_s(self) -> float | None:
        """Seconds until the last round ends; None before the first round has, and while nothing is known."""
        if not self._seen or (self._unknown and not self._ended):
            return None
        own_s = max(0.0, self._own_s / self._seen)
        return sum(self._rounds_left(trial) * (own_s + self._injected_s[trial]) for trial in self._left)

    def _rounds_left(self, trial: int) -> float:
        if trial not in self._unknown:
            return self._left[trial]
        return max(0.0, sum(self._ended) / len(self._ended) - self._counts.get(trial, 0))


def _injected_s(trial: PlannedTrial, clients: int) -> float:
    """Return the mean over a trial's rounds; what a link adds is not known before it has been measured."""
    return trial.delay.expected_slowest_s(clients) * trial.injected_share if trial.delay else 0.0
