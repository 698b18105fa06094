"""The findings in sentences: made from the numbers, plain text, to be escaped by whoever prints them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploy.analysis.statistics.conditions import base_key
from deploy.labels import (
    PROBABILITY,
    SECONDS,
    seconds_text,
    setting_name,
    setting_text,
    signed,
    times_text,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deploy.analysis.statistics.conditions import Analysis, Condition
    from deploy.manifest import PlannedTrial

_ENDED = {
    "failed": "The campaign failed",
    "interrupted": "The campaign was interrupted",
    "running": "The campaign had not ended when this was written",
    "complete": "The campaign is complete",
}


def headlines(analysis: Analysis) -> tuple[str, ...]:
    """Return the findings, the most important one first; at least one sentence."""
    return (*_findings(analysis), *_agreement(analysis), *_ending(analysis)) or ("Nothing was planned.",)


def _findings(analysis: Analysis) -> Iterator[str]:
    timed = [each for each in analysis.conditions if each.total_s is not None]
    slowest = max(timed, key=lambda each: _severity(each, analysis.clients), default=None)
    reference = next((each for each in timed if slowest and _is_reference(each, slowest)), None)
    if slowest and _severity(slowest, analysis.clients) > 0:
        yield _against(slowest, reference) if reference else _alone(slowest)
    elif timed:
        yield _range(timed)


def _severity(condition: Condition, clients: int) -> float:
    """Return the expected delay of a round in seconds: what makes a condition the hardest."""
    delay = condition.plan.delay
    return delay.expected_slowest_s(clients) if delay else 0.0


def _is_reference(condition: Condition, slowest: Condition) -> bool:
    """Tell whether the two differ in nothing but the delay, and the first has none."""
    return _severity(condition, 1) == 0 and base_key(condition.plan) == base_key(slowest.plan)


def _against(slowest: Condition, reference: Condition) -> str:
    measured = times_text((slowest.total_s or 0.0) / (reference.total_s or 1.0))
    start = f"At {_where(slowest.plan)} training took {measured} as long as without delay"
    if not slowest.expected_s or not reference.expected_s:
        return f"{start}."
    return f"{start}; theory expects {times_text(slowest.expected_s / reference.expected_s)}."


def _alone(slowest: Condition) -> str:
    start = f"At {_where(slowest.plan)} training took {seconds_text(slowest.total_s)} s"
    return f"{start}; theory expects {seconds_text(slowest.expected_s)} s." if slowest.expected_s else f"{start}."


def _where(plan: PlannedTrial) -> str:
    """Name a condition with a delay: p, d, and whatever else was swept."""
    rest = [key for key in plan.settings if key not in {PROBABILITY, SECONDS}]
    parts = [f"{setting_name(key)} = {setting_text(plan, key)}" for key in rest if key != "delay"]
    if plan.delay:
        parts = [f"p = {plan.delay.probability:g}", f"d = {plan.delay.seconds.label}", *parts]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _range(timed: list[Condition]) -> str:
    fastest, slowest = min(timed, key=_total), max(timed, key=_total)
    if fastest is slowest:
        return f"Training took {seconds_text(slowest.total_s)} s ({_trials(slowest.complete)})."
    return (
        f"Training took from {seconds_text(fastest.total_s)} s ({fastest.label})"
        f" to {seconds_text(slowest.total_s)} s ({slowest.label})."
    )


def _total(condition: Condition) -> float:
    return condition.total_s or 0.0


def _trials(count: int) -> str:
    return "one trial" if count == 1 else f"mean of {count} trials"


def _agreement(analysis: Analysis) -> Iterator[str]:
    delayed = [each for each in analysis.conditions if _severity(each, 1) > 0]
    gaps = [each.difference_pct for each in delayed if each.difference_pct is not None]
    lucky = [each.unexplained_pct for each in delayed if each.unexplained_pct is not None]
    if len(gaps) > 1:
        start = f"Over {len(gaps)} conditions with delay, measured time differs from theory by {_span(gaps)}"
        known = len(lucky) == len(gaps)
        yield f"{start}; by {_span(lucky)} once theory is given the delays that were drawn." if known else f"{start}."


def _span(gaps: list[float]) -> str:
    low, high = (signed(f"{gap:.1f}") for gap in (min(gaps), max(gaps)))
    return f"{low} % to {high} %"


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "")


def _ending(analysis: Analysis) -> Iterator[str]:
    manifest, done = analysis.dataset.manifest, len(analysis.dataset.complete)
    planned = len(analysis.dataset.trials)
    if manifest.status != "complete":
        yield _ENDED[manifest.status] + (f": {_first_line(manifest.error)}" if manifest.error else ".")
    if done < planned:
        rest = "the others are left out of the figures" if done else "there is nothing to draw"
        yield f"{done} of {planned} trials were completed; {rest}."
    censored = sum(each.censored for each in analysis.conditions)
    if censored:
        yield f"{censored} of {done} completed trials did not reach the target; they are not part of any mean."
