"""The findings in sentences: made from the numbers, plain text, to be escaped by whoever prints them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from deploy.analysis.page.account import CAUSES, counted, share_text
from deploy.analysis.page.answer import answer, severity_s
from deploy.analysis.page.tables import short
from deploy.labels import signed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from deploy.analysis.reading.rows import Dataset
    from deploy.analysis.statistics.conditions import Analysis, Condition

_ENDED = {
    "failed": "The campaign failed",
    "interrupted": "The campaign was interrupted",
    "running": "The campaign had not ended when this was written",
    "complete": "The campaign is complete",
}
_LEVEL, _NAMED = 0.05, 3


def headlines(analysis: Analysis) -> tuple[str, ...]:
    """Return the findings, the most important one first; at least one sentence."""
    found = (
        *answer(analysis),
        *_stragglers(analysis),
        *_agreement(analysis),
        *_sureness(analysis),
        *_ending(analysis),
    )
    return found or ("Nothing was planned.",)


def _stragglers(analysis: Analysis) -> Iterator[str]:
    """Yield who was last most often, and why, if that is more than chance would do."""
    whole = analysis.account.stragglers.filter(pl.col("condition").is_null())
    rows = whole.sort("last", descending=True).to_dicts()
    if len(rows) < 2 or not rows[0]["last"] or rows[0]["rounds"] < 2:  # noqa: PLR2004 - one alone tells nothing
        return
    first = rows[0]
    every = len({row["rounds"] for row in rows}) == 1
    often = f"in {share_text(first['share'])} of {'' if every else 'its '}rounds"
    if _by_chance(first, len(rows)) >= _LEVEL:
        yield f"No client was last more often than chance allows; most often it was {first['client']}, {often}."
    else:
        yield f"{first['client']} was last {often}{_because(first)}."


def _by_chance(row: Mapping[str, Any], clients: int) -> float:
    """Return how likely at most one of equal clients is last so often: the binomial tail times their number."""
    from scipy.special import bdtrc  # noqa: PLC0415 - scipy takes 0.2 s to import

    return clients * float(bdtrc(row["last"] - 1, row["rounds"], row["chance"]))


def _because(row: Mapping[str, Any]) -> str:
    cause = max(CAUSES, key=lambda each: row[each])
    share = row[cause] / row["last"]
    if share <= 0.5:  # noqa: PLR2004 - no cause stands for most of them
        return ""
    return f"{'' if share >= 0.9 else ', mostly'} because of {CAUSES[cause]}"  # noqa: PLR2004 - nearly all


def _agreement(analysis: Analysis) -> Iterator[str]:
    """Yield the verdict over all conditions that theory was tested in, else how far theory is off."""
    judged = [each for each in analysis.conditions if each.agrees is not None]
    off = [each.label for each in judged if not each.agrees]
    if judged:
        yield f"Measurement {_verdict(off, len(judged))}, at the 5 % level{_drawn(analysis)}."
    else:
        yield from _gaps(analysis)


def _verdict(off: Sequence[str], judged: int) -> str:
    """Say in how many of the conditions that were tested nothing speaks against theory, and which the others are."""
    if judged == 1:
        return f"{'does not agree' if off else 'agrees'} with theory in the condition that was tested"
    where = f"all {judged} conditions" if not off else f"{judged - len(off) or 'none'} of {judged} conditions"
    return f"agrees with theory in {where}{f' (not at {_some(off)})' if off else ''}"


def _some(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - _NAMED} more" if len(labels) > _NAMED else ""
    return "; ".join(labels[:_NAMED]) + more


def _delayed(analysis: Analysis) -> list[Condition]:
    return [each for each in analysis.conditions if severity_s(each, 1) > 0]


def _drawn(analysis: Analysis) -> str:
    """Return how far it is off once it is given the delays that were drawn; empty where that is not known."""
    delayed = [each for each in _delayed(analysis) if each.total_s is not None]
    lucky = [each.unexplained_pct for each in delayed if each.unexplained_pct is not None]
    if len(lucky) < 2 or len(lucky) < len(delayed):  # noqa: PLR2004 - a span needs two
        return ""
    return f"; given the delays that were drawn, it differs by {_span(lucky)}"


def _gaps(analysis: Analysis) -> Iterator[str]:
    gaps = [each.difference_pct for each in _delayed(analysis) if each.difference_pct is not None]
    if len(gaps) > 1:
        start = f"Over {len(gaps)} conditions with delay, measured time differs from theory by {_span(gaps)}"
        yield f"{start}{_drawn(analysis)}."


def _span(gaps: list[float]) -> str:
    low, high = (signed(f"{gap:.1f}") for gap in (min(gaps), max(gaps)))
    return f"{low} % to {high} %"


def _sureness(analysis: Analysis) -> Iterator[str]:
    """Yield what the network takes by itself, how well the clocks are known, and what no part of a round explains."""
    parts = [part for part in (_network(analysis.dataset), _clocks(analysis.dataset), _unaccounted(analysis)) if part]
    if parts:
        said = ", and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
        yield f"{said[0].upper()}{said[1:]}."


def _network(dataset: Dataset) -> str:
    trips = [row.whole.natural_rtt_ms.median for row in dataset.network.clients if row.whole.natural_rtt_ms]
    if not trips:
        return ""
    low, high = short(min(trips)), short(max(trips))
    return f"by itself the network takes {low if low == high else f'{low} to {high}'} ms there and back"


def _clocks(dataset: Dataset) -> str:
    known = [1000 * clock.uncertainty_s for clock in dataset.clocks if clock.uncertainty_s is not None]
    return f"times one way are known to ± {short(max(known))} ms" if known else ""


def _unaccounted(analysis: Analysis) -> str:
    rounds = counted(analysis.account.rounds)
    whole_s = float(rounds["round_s"].sum())
    return (
        f"{share_text(float(rounds['unaccounted_s'].sum()) / whole_s)} of the time is unaccounted for"
        if whole_s
        else ""
    )


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
    problems = len(analysis.dataset.problems)
    if problems:
        yield f"{problems} problems were found in the logs." if problems > 1 else "One problem was found in the logs."
