"""The examples in docs/dataset.md run, on the files of a made run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from deploy.analysis.export.write import write_tables
from deploy.analysis.reading.dataset import read_dataset
from deploy.analysis.statistics.conditions import analyse
from flcommon.delay import Constant

if TYPE_CHECKING:
    from types import ModuleType

PAGE = Path(__file__).parents[3] / "docs" / "dataset.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, kit: ModuleType) -> Path:
    made: Path = kit.FakeRun(tmp_path_factory.mktemp("run"), kit.sweep([Constant(0.3)], 1, 3, lambda: 0.5)).write()
    write_tables(made, analyse(read_dataset(made)))
    return made


def test_there_are_examples() -> None:
    """The test after this one has something to run."""
    assert len(EXAMPLES) == 3


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_every_example_runs(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], example: str
) -> None:
    """In a run directory, and prints a table with rows."""
    monkeypatch.chdir(run)
    exec(compile(example, str(PAGE), "exec"), {})  # noqa: S102 - the page's own examples
    shape = re.search(r"shape: \((\d+), (\d+)\)", capsys.readouterr().out)
    assert shape is not None
    assert int(shape[1]) > 0
