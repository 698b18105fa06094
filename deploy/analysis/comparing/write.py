"""Writes a comparison of runs into a directory: `compare.html`, its figures, `comparison.csv`; runs stay untouched."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from deploy.analysis.comparing.match import Comparison, compare
from deploy.analysis.comparing.runs import read_runs
from deploy.analysis.comparing.sections import sections
from deploy.analysis.comparing.words import headlines
from deploy.analysis.page.library import bundling
from deploy.analysis.page.page import Drawings, written
from deploy.analysis.page.sections import Picture
from deploy.analysis.statistics.effects import ADDED
from deploy.errors import DeployError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from deploy.analysis.comparing.match import Side
    from deploy.analysis.statistics.estimate import Estimate


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """What was compared, what was found in words, and the page."""

    comparison: Comparison
    headlines: tuple[str, ...]
    page: Path


def write_comparison(directories: Sequence[Path], output: Path | None = None) -> Written:
    """Compare runs with the first of them and write what was found into `output`.

    Without it, into `compare-<first>-<second>` (`compare-<first>-and-<n>-others` for more than two), named after the
    run directories, in the current directory. Raises InputError when the runs cannot be compared, DeployError when
    the files cannot be written.
    """
    comparison = compare(read_runs(directories))
    folder = output or Path(_folder([run.directory.resolve().name for run in comparison.runs]))
    try:
        return _write(comparison, folder)
    except OSError as error:
        raise DeployError(f"{folder}: the comparison cannot be written: {error.strerror}") from error


def _folder(names: Sequence[str]) -> str:
    return f"compare-{names[0]}-{names[1]}" if len(names) == 2 else f"compare-{names[0]}-and-{len(names) - 1}-others"  # noqa: PLR2004


def _write(comparison: Comparison, folder: Path) -> Written:
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("figure-*.*"):
        old.unlink()
    said = headlines(comparison)
    index = folder / "compare.html"
    index.write_text(page(comparison, said, _draw(comparison, folder)), encoding="utf-8")
    with (folder / "comparison.csv").open("w", newline="", encoding="utf-8") as file:
        rows = list(_rows(comparison))
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return Written(comparison=comparison, headlines=said, page=index)


def page(comparison: Comparison, said: Sequence[str], drawings: Drawings) -> str:
    """Return the page's HTML."""
    values = {
        "headlines": said,
        "sections": sections(comparison, drawings.pictures),
        "choices": [match.label for match in comparison.matches],
        "names": [run.name for run in comparison.runs],
        "directories": [run.directory.resolve().name for run in comparison.runs],
    }
    return written("compare.html", values, drawings)


def _draw(comparison: Comparison, folder: Path) -> Drawings:
    with bundling() as script:
        from deploy.analysis.comparing.figures import figures  # noqa: PLC0415 - Altair takes half a second to import
        from deploy.analysis.figures import render  # noqa: PLC0415

        pictures = tuple(
            Picture.of(each, render.on_page(each), render.save(each, folder)) for each in figures(comparison)
        )
        return Drawings(pictures=pictures, script=script() if pictures else "")


def _rows(comparison: Comparison) -> Iterator[dict[str, Any]]:
    keys = list(dict.fromkeys(key for match in comparison.matches for key in match.settings))
    for match in comparison.matches:
        swept = {key: match.settings.get(key) for key in keys}
        for run, side in zip(comparison.runs, match.sides, strict=True):
            if side is not None:
                yield {"condition": match.label, **swept, "run": run.name, "directory": run.directory, **_row(side)}


def _row(side: Side) -> dict[str, Any]:
    one, versus, target = side.condition, side.versus, side.condition.to_target
    return {
        "trials_complete": one.complete,
        "trials_censored": one.censored,
        "time_s": one.total_s,
        "time_low_s": one.low_s,
        "time_high_s": one.high_s,
        "accuracy": one.accuracy,
        "to_target_s": target.time_s if target else None,
        "to_target_low_s": target.low_s if target else None,
        "to_target_high_s": target.high_s if target else None,
        "to_target_method": target.method if target else None,
        "paired": versus.paired if versus else None,
        **_columns("difference", "_s", versus.difference if versus else None),
        **_columns("ratio", "", versus.ratio if versus else None),
        **_columns("accuracy_difference", "", versus.accuracy if versus else None),
        "logrank_p": versus.logrank_p if versus else None,
        **{f"{group}_s_per_round": side.parts_s.get(group) for group in ADDED},
    }


def _columns(name: str, unit: str, found: Estimate | None) -> dict[str, Any]:
    return {
        f"{name}{unit}": found.value if found else None,
        f"{name}_low{unit}": found.low if found else None,
        f"{name}_high{unit}": found.high if found else None,
        f"{name}_method": found.method if found else None,
    }
