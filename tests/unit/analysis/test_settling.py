from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.analysis.reading.dataset import read_dataset
from deploy.analysis.statistics.conditions import analyse
from deploy.analysis.statistics.settling import settling, settling_rounds
from deploy.analysis.statistics.theory import baseline

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

QUIET = [1.0, 1.01, 0.99, 1.0, 1.02, 0.98, 1.0, 1.01]


def frame(*trials: list[float], injected_s: float | None = 0.0) -> pl.DataFrame:
    rows = [
        {"trial": trial, "round": number, "round_s": round_s, "injected_s": injected_s}
        for trial, times in enumerate(trials)
        for number, round_s in enumerate(times, 1)
    ]
    return pl.DataFrame(
        rows, schema={"trial": pl.Int64, "round": pl.Int64, "round_s": pl.Float64, "injected_s": pl.Float64}
    )


def found(*trials: list[float]) -> list[tuple[int, int]]:
    rows = frame(*trials)
    return rows.filter(settling(rows)).select("trial", "round").rows()


def test_slow_first_rounds_are_recognised_trial_by_trial() -> None:
    assert found([2.0, *QUIET], QUIET, [3.0, 1.5, *QUIET]) == [(0, 1), (2, 1), (2, 2)]


def test_only_leading_rounds_settle() -> None:
    """A slow round after a settled one is a disturbance, not a beginning."""
    assert found([1.0, 2.0, *QUIET], [*QUIET, 5.0]) == []


def test_never_more_than_a_third_of_a_trial() -> None:
    assert found([5.0, 4.0, 3.0, 2.0, *QUIET]) == [(0, 1), (0, 2), (0, 3), (0, 4)]
    assert found([6.0, 5.0, 4.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0]) == [(0, 1), (0, 2), (0, 3)]


def test_short_trials_and_small_gaps_do_not_tell() -> None:
    """Of 5 rounds nothing is left out; and a round 9 % slower than others without any spread is not slow."""
    assert found([9.0, 1.0, 1.0, 1.0, 1.0]) == []
    assert found([1.09, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]) == []


def test_the_injected_part_does_not_make_a_round_slow() -> None:
    rows = frame([4.0, *QUIET]).with_columns(injected_s=pl.when(pl.col("round") == 1).then(3.0).otherwise(0.0))
    assert not settling(rows).any()


def test_what_is_not_known_is_settled() -> None:
    rows = frame([4.0, *QUIET], injected_s=None).with_columns(
        round_s=pl.when(pl.col("round") > 1).then(pl.col("round_s"))
    )
    assert settling(rows).to_list() == [False] * 9
    assert settling(frame()).to_list() == []


@settings(max_examples=40)
@given(
    st.lists(st.lists(st.integers(1, 3000), min_size=1, max_size=12), min_size=1, max_size=3),
    st.integers(0, 2**32),
    st.sampled_from([0.25, 2.0, 8.0]),
)
def test_neither_unit_nor_order_of_rows_matters(drawn: list[list[int]], seed: int, unit: float) -> None:
    """Scaled by powers of two, which change no digit."""
    rows = frame(*[[float(value) for value in trial] for trial in drawn]).with_columns(slow=pl.lit(value=False))
    rows = rows.with_columns(slow=settling(rows))
    shuffled = rows.sample(fraction=1, shuffle=True, seed=seed).with_columns(pl.col("round_s") * unit)
    assert settling(shuffled).to_list() == shuffled["slow"].to_list()


def test_rounds_alike_are_seldom_mistaken() -> None:
    """As the module says: in 1 of 70 trials of 10 normal rounds."""
    rng = np.random.default_rng(1)
    rows = frame(*rng.normal(1.0, 0.1, (4000, 10)).tolist())
    firsts = rows.filter(settling(rows) & (pl.col("round") == 1)).height
    assert firsts / 4000 == pytest.approx(1 / 70, abs=0.006)


def test_c_leaves_settling_rounds_out_and_counts_them(kit: ModuleType) -> None:
    """Half of 6 rounds being slow for having just begun would lift the median; 2 of them are left out."""
    rest = [9.5, 4.5, 0.5, 0.51, 0.49, 0.5]
    trial = kit.measured_trial(kit.plan(0), [0.5] * 6, rest)
    rows = frame([0.5 + each for each in rest])
    slow = settling_rounds(rows.with_columns(settling(rows)))
    assert slow == {(0, 1), (0, 2)}
    base = baseline([trial], slow)
    assert base is not None
    assert (base.rounds, base.settling) == (4, 2)
    assert base.round_s == pytest.approx(1.0)


def test_an_account_says_which_rounds_are_settling(tmp_path: Path, kit: ModuleType) -> None:
    """From the logs to the column, and on to c."""
    rounds = [kit.simple_round(time_s) for time_s in (3.0, *QUIET)]
    analysis = analyse(read_dataset(kit.FakeRun(tmp_path, [kit.FakeTrial(kit.plan(0), rounds)]).write()))
    assert analysis.account.rounds["settling"].to_list() == [True] + [False] * 8
    assert [base.settling for base in analysis.baselines.values() if base] == [1]
