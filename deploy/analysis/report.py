"""Writes `report/` (page, figures, trace), `dataset.parquet` and `tables/` into a run directory, from it alone.

A report can be rebuilt at any time and on any machine. Nothing in raw/ or in the manifest is touched.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from deploy.analysis.export.write import write_tables
from deploy.analysis.page.library import bundling
from deploy.analysis.page.origin import TRACE, downloads
from deploy.analysis.page.page import Drawings, page
from deploy.analysis.page.sections import Picture
from deploy.analysis.page.words import headlines
from deploy.analysis.reading.dataset import read_dataset
from deploy.analysis.statistics.conditions import Condition, analyse
from deploy.analysis.statistics.theory import ideal_s, known_sum
from deploy.analysis.trace.write import write_trace
from deploy.errors import DeployError

if TYPE_CHECKING:
    from deploy.analysis.statistics.conditions import Analysis


PAPER = "paper"
"""The folder in `report/` for a paper's figures."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What a report says in short, for a terminal.

    `total_s` is the sum of the completed trials' times, `ideal_s` the sum of their compute + injected times (None
    when no client's log covers a round); `figure` is the svg of the main figure, None when nothing could be drawn.
    """

    page: Path
    figure: Path | None
    headlines: tuple[str, ...]
    conditions: tuple[Condition, ...]
    trials_complete: int
    trials_planned: int
    total_s: float
    ideal_s: float | None
    problems: tuple[str, ...]


def write_report(run: Path, *, csv: bool = False, paper: bool = False) -> Summary:
    """Write the report of the run in directory `run` and return its summary.

    With `csv` the tables are written as text too, with `paper` the figures also at a paper's sizes. Raises InputError
    when `run` is no run directory, DeployError when the report cannot be written.
    """
    analysis = analyse(read_dataset(run))
    try:
        summary = _write(run, analysis, csv=csv)
        if paper and analysis.dataset.complete:
            _write_paper(analysis, run / "report" / PAPER)
    except OSError as error:
        # polars' own errors have no file name
        raise DeployError(
            f"{error.filename or run}: the report cannot be written: {error.strerror or error}"
        ) from error
    return summary


def _write(run: Path, analysis: Analysis, *, csv: bool) -> Summary:
    folder = run / "report"
    folder.mkdir(exist_ok=True)
    _clear(folder)
    said = headlines(analysis)
    drawings = _draw(analysis, folder) if analysis.dataset.complete else Drawings()
    write_tables(run, analysis, csv=csv)
    rounds = analysis.account.rounds
    traced = write_trace(analysis.dataset, rounds, folder / TRACE) if len(rounds) else None
    text = page(analysis, said, drawings, downloads(run, traced))  # when all that it links to is there
    (folder / "index.html").write_text(text, encoding="utf-8")
    figure = folder / f"{drawings.pictures[0].name}.svg" if drawings.pictures else None
    return _summary(analysis, said, folder / "index.html", figure)


def _clear(folder: Path) -> None:
    """Remove what an earlier report drew: this one may have fewer figures, and none for a paper."""
    for old in (*folder.glob("figure-*.*"), *folder.glob(TRACE), *folder.glob(f"{PAPER}/*")):
        old.unlink()


def _write_paper(analysis: Analysis, folder: Path) -> None:
    from deploy.analysis.figures.paper import write_paper  # noqa: PLC0415 - as in _pictures

    write_paper(analysis, folder)


def _draw(analysis: Analysis, folder: Path) -> Drawings:
    with bundling() as script:
        return Drawings(pictures=_pictures(analysis, folder), script=script())


def _pictures(analysis: Analysis, folder: Path) -> tuple[Picture, ...]:
    # Altair and vl-convert take half a second to import: only when there is something to draw, and while the chart
    # library is being bundled.
    from deploy.analysis.figures import catalogue, render  # noqa: PLC0415

    return tuple(
        Picture.of(each, render.on_page(each), render.save(each, folder)) for each in catalogue.figures(analysis)
    )


def _summary(analysis: Analysis, said: tuple[str, ...], index: Path, figure: Path | None) -> Summary:
    complete = analysis.dataset.complete
    return Summary(
        page=index,
        figure=figure,
        headlines=said,
        conditions=analysis.conditions,
        trials_complete=len(complete),
        trials_planned=len(analysis.dataset.trials),
        total_s=sum(trial.total_s or 0.0 for trial in complete),
        ideal_s=known_sum(ideal_s(trial) for trial in complete),
        problems=analysis.dataset.problems,
    )
