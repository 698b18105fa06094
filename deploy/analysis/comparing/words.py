"""What a comparison found, in sentences; plain text, to be escaped by whoever prints it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploy.labels import TIMES, fixed, span_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from deploy.analysis.comparing.match import Comparison
    from deploy.analysis.statistics.estimate import Estimate

NAMED = 6


def headlines(comparison: Comparison) -> tuple[str, ...]:
    """Return the findings, one sentence for each run, then what else differs and what has no partner."""
    return (*_against(comparison), _differing(comparison), *_alone(comparison))


def _against(comparison: Comparison) -> Iterator[str]:
    reference = comparison.runs[0].name
    for place, run in enumerate(comparison.runs[1:], 1):
        sides = [side for match in comparison.matches if (side := match.sides[place]) is not None]
        ratios = [side.versus.ratio for side in sides if side.versus is not None and side.versus.ratio is not None]
        if not ratios:
            yield f"No condition of {run.name} has a training time to compare with that of {reference}."
            continue
        yield f"{run.name} took {_span(ratios)} as long as {reference}{_over(len(ratios))}{_sure(ratios)}."


def _span(ratios: Sequence[Estimate]) -> str:
    low, high = (f"{each:.2f} {TIMES}" for each in (min(r.value for r in ratios), max(r.value for r in ratios)))
    if len(ratios) == 1 and ratios[0].low is not None and ratios[0].high is not None:
        span = span_text(fixed(ratios[0].low), fixed(ratios[0].high))
        return f"{low} ({span}; 95 %, {ratios[0].method}, n = {ratios[0].n})"
    return low if low == high else f"{low} to {high}"


def _over(count: int) -> str:
    return "" if count == 1 else f", over {count} conditions"


def _sure(ratios: Sequence[Estimate]) -> str:
    """Say in how many conditions the interval leaves no doubt of which was faster."""
    known = [(each.low, each.high) for each in ratios if each.low is not None and each.high is not None]
    if not known:
        return "; with one trial on a side no interval says how sure that is"
    counts = {
        "longer": sum(low > 1 for low, _ in known),
        "shorter": sum(high < 1 for _, high in known),
        "undecided": sum(low <= 1 <= high for low, high in known),
    }
    if len(ratios) == 1:
        return ", which chance may explain" if counts["undecided"] else ""
    said = [f"{what} in {count if count < len(ratios) else 'all of them'}" for what, count in counts.items() if count]
    return f"; by the 95 % intervals {', '.join(said)}"


def _differing(comparison: Comparison) -> str:
    what = [each.what for each in comparison.differing]
    if not what:
        return "Nothing else that was recorded differs between the runs."
    more = f" and {len(what) - NAMED} things more" if len(what) > NAMED else ""
    return f"Between the runs differ: {', '.join(what[:NAMED])}{more}."


def _alone(comparison: Comparison) -> Iterator[str]:
    if comparison.alone:
        named = [f"{label} ({name})" for name, label in comparison.alone[:NAMED]]
        more = f" and {len(comparison.alone) - NAMED} more" if len(comparison.alone) > NAMED else ""
        yield f"Without a partner, and left out: {'; '.join(named)}{more}."
