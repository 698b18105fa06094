"""The first sentences of a report: what the sweep did to the training time, and what the added time is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploy.analysis.statistics.reference import DELAY, LINK, Sweep, family, nothing_injected
from deploy.labels import (
    PROBABILITY,
    SECONDS,
    TIMES,
    fixed,
    pair_text,
    seconds_text,
    setting_name,
    setting_text,
    span_text,
    times_text,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from deploy.analysis.statistics.conditions import Analysis, Condition
    from deploy.analysis.statistics.effects import Effect
    from deploy.analysis.statistics.estimate import Estimate
    from deploy.manifest import PlannedTrial

GROUPS = {
    "injected": "the injected delay",
    "network": "the network",
    "compute": "compute time",
    "engine": "encoding, decoding and queues",
    "server": "the server's work",
    "evaluation": "evaluation",
    "unaccounted": "unaccounted for",
}
"""The groups of `effects.ADDED` in words."""
NAMED, WORTH = 3, 0.005
"""So many groups are named at most, if they are worth half a percent."""
SMALL, SHOWN_S = 0.05, 0.005
"""Two trials without repeats may differ by as much for no reason; below the second one, a time is written as 0.00."""


def answer(analysis: Analysis) -> Iterator[str]:
    """Yield what the sweep did: its largest effect, else the times that there are; nothing if no trial was timed."""
    conditions = {each.plan.condition: each for each in analysis.conditions}
    effect = _largest(analysis, conditions)
    timed = [each for each in analysis.conditions if each.total_s is not None]
    if effect is not None:
        yield _compared(effect, conditions[effect.condition], conditions[effect.reference])
        yield from _added(effect)
    elif timed:
        slowest = max(timed, key=lambda each: severity_s(each, analysis.clients))
        yield _alone(slowest) if severity_s(slowest, 1) > 0 else _range(timed)


def severity_s(condition: Condition, clients: int) -> float:
    """Return the expected delay of a round in seconds: what makes a condition the hardest."""
    delay = condition.plan.delay
    return delay.expected_slowest_s(clients) if delay else 0.0


def _largest(analysis: Analysis, conditions: dict[int, Condition]) -> Effect | None:
    """Return the effect of the hardest condition against the one with nothing injected; else the largest of all."""
    sweep = Sweep(each.plan for each in analysis.conditions)

    def rank(effect: Effect) -> tuple[float, float, float]:
        ours, theirs = (conditions[number] for number in (effect.condition, effect.reference))
        hard = (severity_s(ours, analysis.clients), sweep.hardness(ours.plan)) if sweep.mildest(theirs.plan) else (0, 0)
        return (*hard, abs(effect.difference.value))

    return max((each for each in analysis.effects if each.ratio is not None), key=rank, default=None)


def _compared(effect: Effect, ours: Condition, theirs: Condition) -> str:
    if effect.ratio is None:
        raise ValueError("an effect without a ratio is not compared")
    delayed = set(map(family, effect.keys)) == {DELAY}
    times, span = _times(effect.ratio)
    where = f"{_at(ours.plan).capitalize()} {place(ours.plan)}"
    start = f"{where} {what_took(ours.plan)} {times} as long as {_against(effect, theirs.plan)}{span}"
    if ours.censored or theirs.censored:
        return f"{start}; that is of trials that got there, {_reached(ours)} against {_reached(theirs)}."
    if not ours.expected_s or not theirs.expected_s or not delayed or severity_s(ours, 1) == 0:
        return f"{start}."
    return f"{start}; theory expects {times_text(ours.expected_s / theirs.expected_s)}."


def _reached(condition: Condition) -> str:
    return f"{condition.complete - condition.censored} of {condition.complete}"


def _against(effect: Effect, theirs: PlannedTrial) -> str:
    """Name the reference: by what it is without, else by the values of the keys in which the two differ."""
    families = set(map(family, effect.keys))
    if families == {DELAY} and not (theirs.delay and theirs.delay.expected_slowest_s(1)):
        return "without delay"
    if families <= {DELAY, LINK} and nothing_injected(theirs):
        return "with nothing injected"
    return f"{_at(theirs)} {_listed([pair_text(theirs, key) for key in effect.keys if key in theirs.settings])}"


def _at(plan: PlannedTrial) -> str:
    return "with" if any(family(key) == LINK for key in plan.settings) and not plan.delay else "at"


def what_took(plan: PlannedTrial) -> str:
    """Return the subject and verb: training, or reaching the target."""
    return f"reaching {plan.stop.metric} {plan.stop.at_least:g} took" if plan.stop else "training took"


def _times(found: Estimate) -> tuple[str, str]:
    """Write a ratio with its 95 % interval; why there is none, if so."""
    low, high = found.low, found.high
    if low is None or high is None:
        return times_text(found.value), " (one trial each)" if max(found.n, found.n_reference) == 1 else ""
    digits = next((n for n in (1, 2) if len({f"{end:.{n}f}" for end in (low, high, 1.0)}) == 3), 3)  # noqa: PLR2004
    span = f"95 % interval {span_text(fixed(low, digits), fixed(high, digits))}"
    doubt = ", so no sure difference" if low <= 1 <= high else ""
    return f"{found.value:.{digits}f} {TIMES}", f" ({span}{doubt})"


def _added(effect: Effect) -> Iterator[str]:
    """Yield which parts of the critical path the difference is made of; nothing of one that two trials may have."""
    gap_s, quotient = effect.difference.value, effect.ratio
    alone = effect.difference.low is None and quotient is not None and abs(quotient.value - 1) < SMALL
    worth = [(group, share) for group, share in effect.shares.items() if abs(share) >= WORTH]
    worth.sort(key=lambda each: -abs(each[1]))
    if not worth or alone or abs(gap_s) < SHOWN_S:
        return
    (first, share), rest = worth[0], worth[1:NAMED]
    also = "".join(f", {_percent(part)} {GROUPS[group]}" for group, part in rest)
    kind = "added" if gap_s > 0 else "saved"
    yield f"Of the {kind} {seconds_text(abs(gap_s))} s, {_percent(share)} is {GROUPS[first]}{also}."


def _percent(share: float) -> str:
    digits = 0 if abs(share) >= 0.0095 else 1  # noqa: PLR2004 - tenths below 1 %
    return f"{fixed(100 * share, digits)} %"


def place(plan: PlannedTrial) -> str:
    """Name a condition: p, d, and whatever else was swept."""
    rest = [key for key in plan.settings if key not in {PROBABILITY, SECONDS}]
    if not plan.delay:
        return _listed([pair_text(plan, key) for key in plan.settings])
    parts = [f"{setting_name(key)} = {setting_text(plan, key)}" for key in rest if key != "delay"]
    return _listed([f"p = {plan.delay.probability:g}", f"d = {plan.delay.seconds.label}", *parts])


def _listed(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _alone(slowest: Condition) -> str:
    return f"At {place(slowest.plan)} {what_took(slowest.plan)} {seconds_text(slowest.total_s)} s."


def _range(timed: list[Condition]) -> str:
    fastest, slowest = min(timed, key=_total), max(timed, key=_total)
    start = what_took(slowest.plan)
    start = start[0].upper() + start[1:]
    if fastest is slowest:
        count = slowest.complete - slowest.censored
        how = "one trial" if count == 1 else f"mean of {count} trials"
        ends = [seconds_text(end) for end in (slowest.low_s, slowest.high_s) if end is not None]
        span = f", 95 % interval {span_text(*ends)} s" if len(ends) == 2 else ""  # noqa: PLR2004 - both
        return f"{start} {seconds_text(slowest.total_s)} s ({how}{span})."
    return (
        f"{start} from {seconds_text(fastest.total_s)} s ({fastest.label})"
        f" to {seconds_text(slowest.total_s)} s ({slowest.label})."
    )


def _total(condition: Condition) -> float:
    return condition.total_s or 0.0
