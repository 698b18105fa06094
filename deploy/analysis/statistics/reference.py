"""What conditions are compared with: the reference value of a swept key, and the condition with nothing injected."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from deploy.manifest import PlannedTrial

DELAY, LINK = "delay", "link"


def family(key: str) -> str:
    """Return what a swept key belongs to: `delay`, `link`, `run_config` or another section of a playbook."""
    return key.partition(".")[0]


def reference_value(key: str, values: Sequence[Any]) -> Any:  # noqa: ANN401 - a swept value is whatever YAML holds
    """Return which of the `values` of `key`, of which there is at least one, the others are compared with."""
    if None in values:
        return None
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return max(values) if _less_is_harder(key) else min(values)
    return values[0]


def _less_is_harder(key: str) -> bool:
    return family(key) == LINK and key.endswith("rate_mbit")


def is_injected(key: str) -> bool:
    """Tell whether a swept key says what is injected."""
    return family(key) in {DELAY, LINK}


def nothing_injected(plan: PlannedTrial) -> bool:
    """Tell whether a trial has neither a delay nor a link that asks for anything."""
    ways = chain.from_iterable(link.ways for link in plan.links.values())
    return _undelayed(plan) and all(way.natural for way in ways)


def _undelayed(plan: PlannedTrial) -> bool:
    return plan.delay is None or plan.delay.expected_slowest_s(1) == 0


class Sweep:
    """What a sweep injects: which conditions are its mildest, and how hard the others are."""

    def __init__(self, plans: Iterable[PlannedTrial]) -> None:
        found = tuple(plans)
        keys = dict.fromkeys(key for plan in found for key in plan.settings if is_injected(key))
        self.links = {
            key: _by_hardness(key, [plan.settings[key] for plan in found if key in plan.settings])
            for key in keys
            if family(key) == LINK
        }
        self.delays = any(family(key) == DELAY for key in keys)

    def mildest(self, plan: PlannedTrial) -> bool:
        """Tell whether each swept key has its mildest value; without a delay it does not matter how long it were."""
        return (_undelayed(plan) or not self.delays) and not self.hardness(plan)

    def hardness(self, plan: PlannedTrial) -> float:
        """Return how hard its links are: 0 at the mildest values, 1 more for each key at its hardest."""
        places = ((self.links[key], plan.settings[key]) for key in self.links if key in plan.settings)
        return sum(values.index(value) / max(1, len(values) - 1) for values, value in places)


def _by_hardness(key: str, values: Sequence[Any]) -> list[Any]:
    """Return the values of a link's key, once each, the mildest first."""
    mildest = reference_value(key, values)
    rest = [value for value in dict.fromkeys(values) if value != mildest]
    return [mildest, *sorted(rest, reverse=_less_is_harder(key))]
