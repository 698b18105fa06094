"""Writes `report/` (page, figures, trace) and `dataset.parquet`, `messages.parquet` into a run directory, from it.

A report can be rebuilt at any time and on any machine. Nothing in raw/ or in the manifest is touched.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

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
    from deploy.analysis.reading.rows import Dataset
    from deploy.analysis.statistics.conditions import Analysis


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


def write_report(run: Path) -> Summary:
    """Write the report of the run in directory `run` and return its summary.

    Raises InputError when `run` is no run directory, DeployError when the report cannot be written.
    """
    analysis = analyse(read_dataset(run))
    try:
        return _write(run, analysis)
    except OSError as error:
        raise DeployError(f"{run}: the report cannot be written: {error.strerror}") from error


def _write(run: Path, analysis: Analysis) -> Summary:
    folder = run / "report"
    folder.mkdir(exist_ok=True)
    _clear(folder)
    said = headlines(analysis)
    drawings = _draw(analysis, folder) if analysis.dataset.complete else Drawings()
    _write_table(run, analysis.dataset)
    if len(analysis.account.rounds):
        write_trace(analysis.dataset, analysis.account.rounds, folder / TRACE)
    text = page(analysis, said, drawings, downloads(run))  # when all that it links to is there
    (folder / "index.html").write_text(text, encoding="utf-8")
    figure = folder / f"{drawings.pictures[0].name}.svg" if drawings.pictures else None
    return _summary(analysis, said, folder / "index.html", figure)


def _clear(folder: Path) -> None:
    """Remove the figures of an earlier report, for this one may have fewer, and its trace."""
    for old in (*folder.glob("figure-*.*"), *folder.glob(TRACE)):
        old.unlink()


def _draw(analysis: Analysis, folder: Path) -> Drawings:
    with bundling() as script:
        return Drawings(pictures=_pictures(analysis, folder), script=script())


def _pictures(analysis: Analysis, folder: Path) -> tuple[Picture, ...]:
    # Altair and vl-convert take half a second to import: only when there is something to draw, and while the chart
    # library is being bundled.
    from deploy.analysis.figures import charts, render  # noqa: PLC0415

    found = [each for each in (charts.main_figure(analysis), charts.round_parts(analysis)) if each]
    return tuple(
        Picture(
            name=each.name,
            title=each.title,
            subtitle=each.subtitle,
            caption=each.caption,
            alt=each.alt,
            spec=render.on_page(each),
            svg=render.save(each, folder),
        )
        for each in found
    )


def _write_table(run: Path, dataset: Dataset) -> None:
    if any(trial.rounds for trial in dataset.trials):
        from deploy.analysis.reading import table  # noqa: PLC0415 - polars takes 0.4 s to import

        table.frame(dataset).write_parquet(run / "dataset.parquet")
        if dataset.messages:
            table.messages_frame(dataset.messages).write_parquet(run / "messages.parquet")


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
