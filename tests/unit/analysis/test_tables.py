"""The tables that a run is given as: each has the columns that are documented, and the data set one time line."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import polars as pl
import pytest

from deploy.analysis.account.account import account
from deploy.analysis.columns import SPANS, STEPS
from deploy.analysis.export.columns import TABLES
from deploy.analysis.export.write import write_tables
from deploy.analysis.reading.dataset import read_dataset
from deploy.analysis.statistics.conditions import analyse
from flcommon.delay import Constant, Delay

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from deploy.analysis.statistics.conditions import Analysis


@pytest.fixture
def analysis(tmp_path: Path, kit: ModuleType) -> Analysis:
    """Two trials of two rounds, with a delay."""
    rounds = [kit.simple_round(1.0, 0.5, rest_s=0.25, accuracy=0.5)] * 2
    trials = [kit.FakeTrial(kit.plan(index, Delay(0.5, Constant(0.5))), rounds) for index in range(2)]
    return analyse(read_dataset(kit.FakeRun(tmp_path, trials).write()))


def test_each_table_has_exactly_the_documented_columns(tmp_path: Path, analysis: Analysis) -> None:
    """Names, order and types; and a file for each table, no more."""
    write_tables(tmp_path, analysis)
    assert {path.stem for path in (tmp_path / "tables").iterdir()} == {table.name for table in TABLES}
    paths = {table: tmp_path / "tables" / f"{table.name}.parquet" for table in TABLES}
    for table, path in {**paths, SPANS: tmp_path / "dataset.parquet"}.items():
        schema = pl.read_parquet_schema(path)
        assert {name: kind.base_type() for name, kind in schema.items()} == table.schema, table.name
        assert list(schema) == list(table.schema), table.name


def test_every_column_says_what_it_is() -> None:
    """Units stand in the names of what has one."""
    endings = {"s": "_s", "ms": "_ms", "ns": "_ns", "bytes": "_bytes", "Mbit/s": "_mbit", "ppm": "_ppm", "%": "_pct"}
    for table in (*TABLES, SPANS):
        for column in table.columns:
            assert column.about, (table.name, column.name)
            assert column.name.endswith(endings.get(column.unit, "")), (table.name, column.name)


def test_as_text_there_is_the_same(tmp_path: Path, analysis: Analysis) -> None:
    """A CSV of each, whose rows are those of the parquet file; without being asked, none."""
    write_tables(tmp_path, analysis, csv=True)
    for table in (*TABLES, SPANS):
        path = tmp_path if table is SPANS else tmp_path / "tables"
        rows = pl.read_parquet(path / f"{table.name}.parquet")
        text = pl.read_csv(tmp_path / "tables" / f"{table.name}.csv", schema=table.schema)
        assert text.columns == rows.columns
        assert text.height == rows.height
    write_tables(tmp_path, analysis)
    assert not list((tmp_path / "tables").glob("*.csv"))


def test_the_data_set_has_each_span_once_on_one_time_line(tmp_path: Path, analysis: Analysis) -> None:
    """Rounds and the server's steps are where its log has them, since its first stamp."""
    write_tables(tmp_path, analysis)
    spans = pl.read_parquet(tmp_path / "dataset.parquet")
    assert set(spans["span"]) <= {"round", "configure", "aggregate", "evaluate", *STEPS}
    assert not spans.select("trial", "round", "span", "client", "message").is_duplicated().any()
    rounds = spans.filter(span="round").sort("start_s")
    assert rounds["duration_s"].to_list() == [1.75] * 4
    assert rounds["start_s"].to_list() == pytest.approx([1.0, 2.75, 5.0, 6.75])
    assert rounds["condition"].to_list() == [0, 0, 1, 1]
    assert set(rounds["host"]) == {"server"}
    sent = spans.filter(span="server-encode", client="pc-c").sort("start_s")
    assert sent["start_s"].to_list() == pytest.approx([0.999, 2.749, 4.999, 6.749])


def test_a_table_of_an_earlier_report_does_not_stay(tmp_path: Path, analysis: Analysis) -> None:
    for old in (tmp_path / "messages.parquet", tmp_path / "tables" / "gone.parquet"):
        old.parent.mkdir(exist_ok=True)
        old.write_bytes(b"old")
        write_tables(tmp_path, analysis)
        assert not old.exists()


def test_the_same_logs_give_the_same_numbers_to_the_last_bit(tmp_path: Path, kit: ModuleType) -> None:
    """Sums are made in one order, whatever the threads do: a report that is made again is the same."""
    rng = random.Random(1)  # noqa: S311 - noise
    trials = kit.sweep([Constant(0.3), Constant(0.4)], 2, 6, lambda: rng.gauss(0, 1))
    dataset = read_dataset(kit.FakeRun(tmp_path, trials, whole=True).write())
    first, *more = (account(dataset) for _ in range(8))
    for again in more:
        for name in ("rounds", "clients", "stragglers", "what_if"):
            assert getattr(again, name).equals(getattr(first, name), null_equal=True), name
