"""Figures for a paper: page boxes, fonts, sizes of text, captions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from deploy.analysis.figures import paper
from deploy.analysis.figures.catalogue import main_figure
from deploy.analysis.figures.figure import Figure
from deploy.analysis.reading.dataset import read_dataset
from deploy.analysis.statistics.conditions import analyse
from flcommon.delay import Constant, Delay

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, kit: ModuleType) -> Path:
    """What is written of two conditions of two rounds, over what was there before."""
    trials = [
        kit.FakeTrial(kit.plan(n, Delay(float(n), Constant(1.0))), [kit.simple_round(1.0, n)] * 2) for n in (0, 1)
    ]
    made: Path = tmp_path_factory.mktemp("paper") / "report" / "paper"
    made.mkdir(parents=True)
    (made / "figure-old-1col.pdf").write_text("of an earlier run")
    run = kit.FakeRun(tmp_path_factory.mktemp("run"), trials).write()
    written = paper.write_paper(analyse(read_dataset(run)), made)
    assert {path.name for path in written} == {path.name for path in made.glob("*.pdf")}
    return made


def test_each_figure_is_there_in_both_widths_and_three_formats(folder: Path) -> None:
    stems = {path.name.rpartition(".")[0] for path in folder.glob("figure-*")}
    names = {stem.rpartition("-")[0] for stem in stems}
    assert {"figure-4", "figure-account"} <= names
    assert stems == {f"{name}-{width}" for name in names for width in ("1col", "2col")}
    assert len(list(folder.glob("figure-*"))) == 3 * len(stems)


def test_pages_are_as_wide_as_columns_and_fonts_are_inside(folder: Path) -> None:
    """The box is in points: 3.5 and 7.16 inches, so that text has the size that it says."""
    for path in folder.glob("*.pdf"):
        data = path.read_bytes()
        box = re.search(rb"/MediaBox ?\[0 0 ([\d.]+) ([\d.]+)\]", data)
        assert box is not None
        inches = float(box[1]) / 72
        assert inches == pytest.approx(3.5 if path.stem.endswith("1col") else 7.16, abs=0.01), path.name
        assert b"/FontFile" in data
        assert float(box[2]) < 72 * 9.5


def test_all_text_has_8_points_and_there_is_no_title(folder: Path) -> None:
    for path in folder.glob("*.svg"):
        svg = path.read_text()
        assert set(re.findall(r'font-size="([\d.]+)px"', svg)) == {"8"}, path.name
        assert "role-title-text" not in svg


def test_a_png_has_300_dots_an_inch(folder: Path) -> None:
    width = int.from_bytes((folder / "figure-4-1col.png").read_bytes()[16:20], "big")
    assert width == pytest.approx(3.5 * 300, abs=2)


def test_captions_are_latex_whatever_stands_in_them() -> None:
    figure = Figure(
        name="figure-x",
        title="5 % of a_b",
        subtitle="{x} & \\y",
        caption="± 2 ms, #1 ~ ^.",
        alt="",
        use="Click.",
        terms="Y: a word.",
        spec={},
    )
    text = paper.captions([figure])
    assert (
        r"\caption{5 \% of a\_b. \{x\} \& \textbackslash{}y. $\pm$ 2 ms, \#1 \textasciitilde{} \textasciicircum{}."
        " Y: a word.}"
    ) in text
    assert r"\includegraphics{figure-x-1col.pdf}" in text
    assert "Click" not in text


def test_marks_and_dashes_shrink_with_the_text(tmp_path: Path, kit: ModuleType) -> None:
    """Lines are two thirds as thick, points two thirds as wide: their `size` is an area."""
    trials = [kit.FakeTrial(kit.plan(n, Delay(float(n), Constant(1.0))), [kit.simple_round(1.0, n)]) for n in (0, 1)]
    figure = main_figure(analyse(read_dataset(kit.FakeRun(tmp_path, trials).write())))
    assert figure is not None
    page, printed = figure.spec["layer"], paper.for_paper(figure, 252)["layer"]
    for one, other in zip(page, printed, strict=True):
        power = 2 if one["mark"]["type"] == "point" else 1
        for name in {"strokeWidth", "size"} & one["mark"].keys():
            assert other["mark"][name] == pytest.approx(one["mark"][name] * (2 / 3) ** power)
