"""What runs of bench/engine.py took, as tables."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from fanout_figures import markdown, met, spread

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from outcome import Outcome, Work

__all__ = ["HEADER", "Turns", "bars", "cell_rows", "markdown", "met", "ratios", "round_ms", "spread"]

Turns = list["Outcome"]
"""One run of an engine for each turn."""

HEADER = ["clients", "MB", "engine", "rounds", "median ms", "p90 ms", "ratio", "CPU s a round", "MB on the wire"]
LARGE_MB, LARGE_BAR, BAR = 100.0, 1.2, 1.0


def cell_rows(work: Work, turns: Mapping[str, Turns], yardstick: str) -> list[list[str]]:
    """Return the rows of one cell, one for each engine."""
    rows = []
    for name, mine in turns.items():
        wire = [one.wire_bytes for one in mine if one.wire_bytes is not None]
        ratio = "1" if name == yardstick else spread(ratios(mine, turns[yardstick])) if yardstick in turns else ""
        rounds = f"{len(mine)} x {work.rounds}"
        cpu_s = statistics.median(one.cpu_s for one in mine)
        sent = f"{statistics.median(wire) / 1e6:.4g}" if wire else ""
        size = f"{work.size_bytes / 1e6:.3g}"
        rows.append([str(work.clients), size, name, rounds, *round_ms(mine), ratio, f"{cpu_s:.3g}", sent])
    return rows


def round_ms(turns: Turns) -> tuple[str, str]:
    """Return the median and the 90th percentile of all rounds, in ms."""
    pooled = sorted(one * 1e3 for turn in turns for one in turn.round_s)
    p90 = pooled[round(0.9 * (len(pooled) - 1))]
    return f"{statistics.median(pooled):.4g}", f"{p90:.4g}"


def ratios(mine: Turns, yardstick: Turns) -> list[float]:
    """Return the ratio of the median rounds within each turn."""
    return [one.median_s / other.median_s for one, other in zip(mine, yardstick, strict=True)]


def bars(cells: Sequence[tuple[str, float, Mapping[str, Turns]]], yardstick: str) -> str:
    """Say for each cell (its name, its MB) whether our round is as fast as wanted, and what TLS costs."""
    header = ["wanted", "measured", "", "to its fastest variant", "TLS costs"]
    rows = [["ours to start_server, both without TLS", *header]]
    for name, megabytes, turns in cells:
        plain = turns["ours"]
        if yardstick not in turns:
            rows.append([name, "", f"{yardstick} did not get through", "", "", ""])
            continue
        found, most = statistics.median(ratios(plain, turns[yardstick])), LARGE_BAR if megabytes >= LARGE_MB else BAR
        tls = f"x {spread(ratios(turns['ours, TLS'], plain))}" if "ours, TLS" in turns else ""
        fastest = min((one for key, one in turns.items() if key.startswith(yardstick)), key=_typical_s)
        strictest = f"{statistics.median(ratios(plain, fastest)):.2f}"
        rows.append([name, f"≤ {most:g}", f"{found:.2f}", met(found, most), strictest, tls])
    return markdown(rows)


def _typical_s(turns: Turns) -> float:
    return statistics.median(one.median_s for one in turns)
