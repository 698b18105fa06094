"""Replays "without the injected delay" against rounds that really were without, condition by condition.

    python bench/what_if.py [RUN]

RUN is the directory of a run. Really without are its control rounds, each condition's own; where there are none, the
trials in which nothing was injected. Without RUN, the quick playbook runs three times over on a virtual lab of this
machine: two minutes, in which nothing else should run.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import median

import polars as pl

from deploy.analysis.account.account import account
from deploy.analysis.account.lives import legs, lives, turns
from deploy.analysis.account.replay import CHANGES, replay
from deploy.analysis.account.shares import stays
from deploy.analysis.reading.dataset import read_dataset
from deploy.campaign import Request, up
from deploy.inventory import VirtualLab
from deploy.labels import settings_text
from deploy.playbook import load_playbook
from deploy.providers.virtual.lab import virtual_lab
from deploy.remote.ssh import connect
from deploy.view import Silent

QUICK = Path(__file__).parents[1] / "playbooks" / "quick.yaml"
REPEATS = 3
_NOTHING_S = 0.001
"""A round into which less is injected is one without."""


class Where(Silent):
    """A view that remembers the run's directory."""

    directory = Path()

    def run(self, directory: Path, plan: object) -> None:  # noqa: ARG002 - the view's signature
        """Note it."""
        self.directory = directory


def run_quick(place: Path) -> Path:
    """Run the quick playbook with repeats; return the run's directory."""
    file = place / "quick.yaml"
    file.write_text(QUICK.read_text().replace("repeats: 1", f"repeats: {REPEATS}"))
    view = Where()
    lab = VirtualLab(file=Path("lab.yaml"), lab="virtual", playbook=None, clients=3)
    up(Request(virtual_lab(lab), load_playbook(file), place / "runs", connect), view)
    return view.directory


def by_round(run: Path) -> pl.DataFrame:
    """Return a row for each round of the completed trials: its condition's label, seconds measured and replayed.

    `real`: nothing was injected, and it is one to compare with.
    """
    dataset = read_dataset(run)
    told = lives(dataset.tasks, dataset.rounds)
    saved = replay(stays(turns(told), legs(told))).filter(pl.col("change") == CHANGES[0].name)
    rounds = account(dataset).rounds.join(saved.select("trial", "round", "saved_s"), on=["trial", "round"], how="left")
    labels = {trial.plan.index: settings_text(trial.plan) for trial in dataset.complete}
    rounds = rounds.filter(pl.col("trial").is_in(list(labels)))
    most_s = pl.col("injected_s").max().over("trial")
    real = pl.col("control") if rounds["control"].any() else most_s < _NOTHING_S
    return rounds.sort("condition", "trial", "round").select(
        label=pl.col("trial").replace_strict(labels, return_dtype=pl.String),
        real=real,
        measured_s=pl.col("round_s"),
        replayed_s=pl.col("round_s") - pl.col("saved_s").fill_null(0.0),
    )


def compare(rounds: pl.DataFrame) -> None:
    """Print the table: mean rounds of each condition."""
    print(f"{'condition':32} {'measured':>10} {'replayed':>10} {'really':>10}    off")
    all_real_s = rounds.filter("real")["measured_s"].mean()
    offs, whole = [], []
    for (label,), own in rounds.group_by("label", maintain_order=True):
        delayed, real = own.filter(~pl.col("real")), own.filter("real")
        if delayed.is_empty():
            continue
        real_s = all_real_s if real.is_empty() else real["measured_s"].mean()
        replayed_s = delayed["replayed_s"].mean()
        offs.append(100 * (replayed_s / real_s - 1))
        whole.append((replayed_s, real_s))
        print(f"{label:32} {delayed['measured_s'].mean():9.3f}s {replayed_s:9.3f}s {real_s:9.3f}s {offs[-1]:+5.1f} %")
    total = 100 * (sum(replayed for replayed, _ in whole) / sum(real for _, real in whole) - 1)
    print(f"all conditions together: {total:+.1f} %; one: {median(map(abs, offs)):.1f} % in the median")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        compare(by_round(Path(sys.argv[1])))
    else:
        with tempfile.TemporaryDirectory() as place:
            compare(by_round(run_quick(Path(place))))
