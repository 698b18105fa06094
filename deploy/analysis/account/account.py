"""The account of a run: where each round's time went, each client's share of it, who was last, and what if.

Only rounds that ended have one; the other rows of `rounds` have nulls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import polars as pl

from deploy.analysis.account.lives import PLACE, legs, lives, turns
from deploy.analysis.account.path import paths
from deploy.analysis.account.replay import what_if
from deploy.analysis.account.shares import clients, server_work, shares, stays
from deploy.analysis.account.stragglers import last_ones, stragglers
from deploy.analysis.columns import CLIENTS, ROUNDS, STRAGGLERS, WHAT_IF, empty
from deploy.analysis.statistics.settling import settling

if TYPE_CHECKING:
    from deploy.analysis.reading.rows import Dataset


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """ROUNDS, CLIENTS, STRAGGLERS and WHAT_IF, whole."""

    rounds: pl.DataFrame = msgspec.field(default_factory=lambda: empty(ROUNDS))
    clients: pl.DataFrame = msgspec.field(default_factory=lambda: empty(CLIENTS))
    stragglers: pl.DataFrame = msgspec.field(default_factory=lambda: empty(STRAGGLERS))
    what_if: pl.DataFrame = msgspec.field(default_factory=lambda: empty(WHAT_IF))


def account(dataset: Dataset) -> Account:
    """Account for every round of a data set; the cost is linear in the number of its tasks."""
    told = lives(dataset.tasks, dataset.rounds)
    own, waves = turns(told), legs(told)
    parts = paths(dataset.rounds, own, waves, dataset.phases)
    rounds = dataset.rounds.join(parts, on=PLACE, how="left", maintain_order="left")
    rounds = rounds.join(last_ones(told, own, waves), on=PLACE, how="left", maintain_order="left")
    rounds = rounds.with_columns(settling(rounds)).select(*ROUNDS.schema)
    work = server_work(dataset.rounds, waves, dataset.phases)
    stayed = stays(own, waves)
    split = shares(told, stayed, waves, work)
    return Account(
        rounds=rounds,
        clients=clients(split, dataset.tasks, rounds),
        stragglers=stragglers(told, rounds),
        what_if=what_if(stayed, rounds, [trial.plan.index for trial in dataset.complete]),
    )
