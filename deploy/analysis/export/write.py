"""Writes dataset.parquet and tables/ into a run directory; what an earlier report left there goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploy.analysis.columns import SPANS
from deploy.analysis.export.spans import spans
from deploy.analysis.export.tables import tables

if TYPE_CHECKING:
    from pathlib import Path

    import polars as pl

    from deploy.analysis.statistics.conditions import Analysis

FOLDER = "tables"
DATASET_FILE = f"{SPANS.name}.parquet"
_LEVEL = 1
"""Of compression: higher ones make 11 million spans smaller by a tenth and take twice as long."""


def write_tables(run: Path, analysis: Analysis, *, csv: bool = False) -> None:
    """Write all tables, as `columns` and `export.columns` describe them; with `csv` also as text. Raises OSError."""
    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    for old in (run / DATASET_FILE, run / "messages.parquet", *folder.glob("*.parquet"), *folder.glob("*.csv")):
        old.unlink(missing_ok=True)
    _write(spans(analysis.dataset), run / DATASET_FILE)
    if csv:
        spans(analysis.dataset).sink_csv(folder / f"{SPANS.name}.csv")
    for table, frame in tables(analysis):
        _write(frame.lazy(), folder / f"{table.name}.parquet")
        if csv:
            frame.write_csv(folder / f"{table.name}.csv")


def _write(rows: pl.LazyFrame, path: Path) -> None:
    """Write rows in pieces, so that they are never all there at once."""
    rows.sink_parquet(path, compression="zstd", compression_level=_LEVEL)
