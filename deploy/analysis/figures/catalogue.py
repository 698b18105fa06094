"""All figures of a run, in the order in which they are read; one that has nothing to say is not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploy.analysis.figures import clocks, figure4, hosts, injection, learning, parts, stragglers, timeline, training
from deploy.labels import PROBABILITY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.analysis.figures.figure import Figure
    from deploy.analysis.statistics.conditions import Analysis


def figures(analysis: Analysis) -> tuple[Figure, ...]:
    """Return the figures; the first is the main one, if a trial was completed."""
    return tuple(each for each in _figures(analysis) if each is not None)


def main_figure(analysis: Analysis) -> Figure | None:
    """Return time against delay probability where the playbook sweeps that, else time by condition."""
    if not analysis.dataset.complete:
        return None
    sweeps = any(PROBABILITY in trial.plan.settings for trial in analysis.dataset.trials)
    return figure4.time_against_probability(analysis) if sweeps else training.time_by_condition(analysis)


def _figures(analysis: Analysis) -> Iterator[Figure | None]:
    yield main_figure(analysis)
    yield parts.account(analysis)
    yield parts.hosts(analysis)
    yield stragglers.stragglers(analysis)
    yield timeline.timeline(analysis)
    yield hosts.compute(analysis)
    yield from learning.accuracy(analysis)
    yield hosts.one_way(analysis)
    yield hosts.round_trips(analysis)
    yield from injection.injected(analysis)
    yield clocks.clocks(analysis)
