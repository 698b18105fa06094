"""The account of a real campaign, whose app takes as long for each part as it was told to."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest

from deploy.analysis.account.account import Account, account
from deploy.analysis.account.lives import legs, lives, turns
from deploy.analysis.account.replay import CHANGES, replay
from deploy.analysis.account.shares import stays
from deploy.analysis.reading.dataset import read_dataset

if TYPE_CHECKING:
    from deploy.analysis.reading.rows import Dataset

APPS = Path(__file__).parents[1] / "apps"
TRAIN_S, EVALUATE_S, CENTRAL_S, DELAY_S, LINK_MS = 0.08, 0.02, 0.03, 0.07, 20
PLAYBOOK = f"""
playbook: paced
app: apps/paced
probe: off
rounds: 4
repeats: 2
order: listed
run_config: {{train-s: {TRAIN_S}, evaluate-s: {EVALUATE_S}, central-s: {CENTRAL_S}}}
delay: {{at: before-upload, seconds: {DELAY_S}}}
link: {{layer: relay}}
sweep: {{delay.probability: [0, 1], link.delay_ms: [0, {LINK_MS}]}}
seed: 7
"""
"""Two trials of each condition, in the order A B C D A B C D."""


def played(bench, recorder, tmp_path: Path) -> Dataset:
    (tmp_path / "apps").symlink_to(APPS)
    view = recorder()
    bench.up(view, PLAYBOOK)
    return read_dataset(view.directory)


def of(dataset: Dataset, found: Account, *, delayed: bool, linked: bool) -> pl.DataFrame:
    """Return the rounds of the trials that are delayed in these ways, without each trial's first."""
    own = [
        trial.plan.index
        for trial in dataset.trials
        if (trial.plan.settings["delay.probability"] == 1) == delayed
        and (trial.plan.settings["link.delay_ms"] > 0) == linked
    ]
    return found.rounds.filter(pl.col("trial").is_in(own), pl.col("round") > 1)


def test_the_account_of_a_campaign_and_its_replays(bench, recorder, tmp_path: Path) -> None:
    """Next to nothing is unaccounted for, each part is as long as it was made, and a replay is as good as a trial.

    The delay and the link are taken out of the delayed trials' logs: what is left takes as long as the trials that were
    really without, within 5 %. Of each condition the least disturbed round counts: others use this machine too.
    """
    dataset = played(bench, recorder, tmp_path)
    assert dataset.problems == ()
    found = account(dataset)
    rounds = found.rounds.filter(pl.col("trial") >= 0)
    assert len(rounds) == 4 * 2 * 4
    left_s = rounds["unaccounted_s"].abs()
    assert left_s.median() <= 0.005 or (left_s / rounds["round_s"]).median() <= 0.01
    for delayed, linked in itertools.product((False, True), repeat=2):
        check_parts(of(dataset, found, delayed=delayed, linked=linked), delayed=delayed, linked=linked)
    check_replays(dataset, found)
    counted = found.stragglers.filter(pl.col("condition").is_null())
    assert counted.sort("last")["client"].to_list() == ["client-1", "client-2"]


def check_parts(rounds: pl.DataFrame, *, delayed: bool, linked: bool) -> None:
    """The slower client's training, both evaluations, and what was injected: never shorter, and by 5 ms longer at most.

    A link holds messages back four times: to train and to evaluate, there and back.
    """
    injected_s = DELAY_S * delayed + 4 * LINK_MS / 1000 * linked
    truth = {"compute": 2 * TRAIN_S, "evaluate": EVALUATE_S + CENTRAL_S, "injected": injected_s}
    for part, true_s in truth.items():
        assert 0 <= rounds[f"{part}_s"].min() - true_s <= 0.005, (part, delayed, linked)


def check_replays(dataset: Dataset, found: Account) -> None:
    """What the replay leaves of each delayed round, against the rounds that were not delayed."""
    told = lives(dataset.tasks, dataset.rounds)
    saved = replay(stays(turns(told), legs(told))).filter(change=CHANGES[0].name).select("trial", "round", "saved_s")
    real_s = of(dataset, found, delayed=False, linked=False)["round_s"].min()
    for delayed, linked in ((True, False), (False, True), (True, True)):
        rounds = of(dataset, found, delayed=delayed, linked=linked).join(saved, on=["trial", "round"])
        assert (rounds["round_s"] - rounds["saved_s"]).min() == pytest.approx(real_s, rel=0.05), (delayed, linked)
