"""The page's sections on the account: where the time went, who was last and why, and what if; tables of means."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from deploy.analysis.columns import PARTS, SHARES
from deploy.analysis.page.sections import Part, Section
from deploy.analysis.page.tables import Cell, Head, Row, Table, number, text
from deploy.labels import count_text, fixed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

    from deploy.analysis.statistics.conditions import Analysis

CAUSES = {
    "compute": "its compute time",
    "injected": "the injected delay",
    "network": "the network",
    "engine": "encoding, decoding and queues",
}
"""Why a client is last, as `cause` of ROUNDS has it, in words."""
_CLIENT, _CONDITION = Head("client", number=False), Head("condition", number=False)
_LAST = (
    "Last: the rounds that waited for this client's training, split by the cause: in what it was most above the median"
    " of the others. Lost: the sum of how much earlier the second to last was there."
)


def counted(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the rounds of ROUNDS or CLIENTS that means are made of: whole, of a condition, not to control."""
    found = frame.filter(
        pl.col("condition").is_not_null() & (pl.col("round") > 0) & pl.col("round_s").is_not_null() & ~pl.col("control")
    )
    return found.filter(~pl.col("settling")) if "settling" in frame.columns else found


def _left_out(analysis: Analysis) -> str:
    """Say which rounds the means are made without; empty if there are none."""
    rounds = analysis.account.rounds.filter(pl.col("condition").is_not_null() & (pl.col("round") > 0))
    control, settling = (int(rounds[name].sum()) for name in ("control", "settling"))
    slow = "at the start of trials, slower than those after them"
    known = [
        f"{count_text(count, 'round')} {what}" for count, what in ((control, "of control"), (settling, slow)) if count
    ]
    return f"Left out: {', and '.join(known)}." if known else ""


def account(analysis: Analysis) -> Section:
    """Return the section on where the time of a round went, along its critical path and for each client."""
    rounds = counted(analysis.account.rounds)
    title = "Where the time went"
    if rounds.is_empty():
        return Section(name="account", title=title)
    return Section(name="account", title=title, said=_said(rounds), parts=tuple(_parts(analysis, rounds)))


def _said(rounds: pl.DataFrame) -> tuple[str, ...]:
    whole_s = float(rounds["round_s"].sum())
    sums = {part: float(rounds[f"{part}_s"].sum()) for part in PARTS}
    largest = sorted((part for part in PARTS if part != "unaccounted"), key=lambda part: -sums[part])
    shown = ", ".join(f"{part} {share_text(sums[part] / whole_s)}" for part in largest[:4] if sums[part] > 0)
    rest_ms = 1000 * float(rounds.select(pl.col("unaccounted_s").median()).item())
    rest = share_text(sums["unaccounted"] / whole_s)
    return (
        f"Along the critical path of {count_text(rounds.height, 'round')}: {shown}.",
        f"{rest} is unaccounted for: {fixed(rest_ms)} ms of a round in the median.",
    )


def share_text(share: float) -> str:
    """Write a share in percent: whole ones from 10 % on, tenths below."""
    percent = 100 * share
    if 0 < abs(percent) < 0.05:  # noqa: PLR2004 - what would round to 0.0
        return "less than 0.1 %"
    return f"{fixed(percent, 0 if abs(percent) >= 9.95 else 1)} %"  # noqa: PLR2004 - as the docstring says


def _parts(analysis: Analysis, rounds: pl.DataFrame) -> Iterator[Part]:
    labels = _labels(analysis)
    heads = (_CONDITION, *_heads(PARTS))
    table = Table("account-conditions", "Parts of a round by condition", heads, _by_condition(rounds, labels))
    yield Part(
        table=table, title="A round along its critical path", notes=(f"Means over rounds. {_left_out(analysis)}",)
    )
    yield _meanings("parts", "What the parts of a round are", PARTS)
    shares = counted(analysis.account.clients).join(rounds.select("trial", "round"), on=["trial", "round"])
    yield from _by_client(shares, labels)
    yield _meanings("shares", "What the shares of a client's round are", SHARES)


def _labels(analysis: Analysis) -> dict[int, str]:
    return {each.plan.condition: each.label for each in analysis.conditions}


def _heads(parts: Iterable[str]) -> tuple[Head, ...]:
    return (Head("rounds"), *(Head(name, "ms") for name in ("round", *parts)))


def _means(frame: pl.DataFrame, keys: Sequence[str], parts: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Yield for each group the number of rounds and the mean of each part, its keys first."""
    columns = [f"{name}_s" for name in ("round", *parts)]
    found = frame.group_by(keys, maintain_order=True).agg(pl.len().alias("rounds"), pl.col(columns).mean())
    return found.sort(keys).iter_rows(named=True)


def _cells(row: Mapping[str, Any], parts: Iterable[str]) -> tuple[Cell, ...]:
    times_s = (row[f"{name}_s"] for name in ("round", *parts))
    return number(row["rounds"], "d"), *(number(None if s is None else 1000 * s, ".1f") for s in times_s)


def _by_condition(rounds: pl.DataFrame, labels: Mapping[int, str]) -> tuple[Row, ...]:
    return tuple(
        Row((text(labels[row["condition"]]), *_cells(row, PARTS)), labels[row["condition"]])
        for row in _means(rounds, ["condition"], PARTS)
    )


def _by_client(shares: pl.DataFrame, labels: Mapping[int, str]) -> Iterator[Part]:
    rows = tuple(Row((text(row["client"]), *_cells(row, SHARES))) for row in _means(shares, ["client"], SHARES))
    table = Table("account-clients", "Shares of a round by client", (_CLIENT, *_heads(SHARES)), rows)
    yield Part(table=table, title="Each client's round")
    if len(labels) > 1:
        heads = (_CLIENT, _CONDITION, *_heads(SHARES))
        rows = tuple(_client_row(row, labels) for row in _means(shares, ["client", "condition"], SHARES))
        table = Table("account-clients-conditions", "Shares by client and condition", heads, rows)
        yield Part(table=table, title="Each client's round by condition", folded=True)


def _client_row(row: Mapping[str, Any], labels: Mapping[int, str]) -> Row:
    label = labels[row["condition"]]
    return Row((text(row["client"]), text(label), *_cells(row, SHARES)), label)


def _meanings(name: str, title: str, meanings: Mapping[str, str]) -> Part:
    heads = (Head("part", number=False), Head("what it is", number=False, wide=True))
    rows = tuple(Row((text(part), text(meaning))) for part, meaning in meanings.items())
    return Part(table=Table(f"account-{name}", title, heads, rows), title=title, folded=True)


def stragglers(analysis: Analysis) -> Section:
    """Return the section on how often each client was last, by which cause, and what that cost."""
    frame, title = analysis.account.stragglers, "Stragglers"
    whole = frame.filter(pl.col("condition").is_null()).sort("last", descending=True)
    if whole.height < 2:  # noqa: PLR2004 - one client alone keeps nobody waiting
        return Section(name="stragglers", title=title)
    heads = (Head("rounds"), Head("last"), Head("share", "%"), *(Head(cause) for cause in CAUSES), Head("lost", "s"))
    rows = tuple(Row((text(row["client"]), *_straggler(row))) for row in whole.iter_rows(named=True))
    parts = [
        Part(
            table=Table("stragglers-clients", "Stragglers", (_CLIENT, *heads), rows), notes=(_LAST, _left_out(analysis))
        )
    ]
    labels = _labels(analysis)
    own = frame.filter(pl.col("condition").is_not_null()).sort("condition", "client")
    if len(labels) > 1 and own.height:
        rows = tuple(_straggler_row(row, labels[row["condition"]]) for row in own.iter_rows(named=True))
        table = Table("stragglers-conditions", "Stragglers by condition", (_CLIENT, _CONDITION, *heads), rows)
        parts.append(Part(table=table, title="Stragglers by condition", folded=True))
    return Section(name="stragglers", title=title, parts=tuple(parts))


def _straggler(row: Mapping[str, Any]) -> tuple[Cell, ...]:
    counts = (number(row[name], "d") for name in ("rounds", "last"))
    causes = (number(row[cause], "d") for cause in CAUSES)
    share = None if row["share"] is None else 100 * row["share"]
    return (*counts, number(share, ".0f"), *causes, number(row["lost_s"], ".2f"))


def _straggler_row(row: Mapping[str, Any], label: str) -> Row:
    return Row((text(row["client"]), text(label), *_straggler(row)), label)
