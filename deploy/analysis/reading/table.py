"""The run as tables for other tools: dataset.parquet has a row for each client in each round of each trial.

messages.parquet has one for each message and direction: `messages.MessageRow`, flags joined by "; ".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import msgspec
import polars as pl

from deploy.analysis.reading.messages import MessageRow
from deploy.labels import value_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from deploy.analysis.reading.rows import ClientRound, Dataset, Round, Trial

SCHEMA: dict[str, type[pl.DataType]] = {
    "trial": pl.Int64,
    "condition": pl.Int64,
    "repeat": pl.Int64,
    "settings": pl.String,
    "probability": pl.Float64,
    "status": pl.String,
    "trial_total_s": pl.Float64,
    "target_s": pl.Float64,
    "round": pl.Int64,
    "round_started_s": pl.Float64,
    "round_s": pl.Float64,
    "accuracy": pl.Float64,
    "client": pl.String,
    "compute_s": pl.Float64,
    "injected_requested_s": pl.Float64,
    "injected_measured_s": pl.Float64,
}

_TYPES: dict[type, type[pl.DataType]] = {int: pl.Int64, float: pl.Float64, str: pl.String, bool: pl.Boolean}
MESSAGES: dict[str, type[pl.DataType]] = {
    field.name: next((kind for name, kind in _TYPES.items() if name in (field.type, *get_args(field.type))), pl.String)
    for field in msgspec.structs.fields(MessageRow)
}


def frame(dataset: Dataset) -> pl.DataFrame:
    """Return the table; a round that no client's log covers has one row, with null for the client."""
    rows = (row for trial in dataset.trials for row in _rows(trial))
    return pl.DataFrame(list(rows), schema=SCHEMA, orient="row")


def messages_frame(messages: Iterable[MessageRow]) -> pl.DataFrame:
    """Return the table of messages."""
    rows = [(*msgspec.structs.astuple(row)[:-1], "; ".join(row.flags)) for row in messages]
    return pl.DataFrame(rows, schema=MESSAGES, orient="row")


def _rows(trial: Trial) -> Iterator[tuple[Any, ...]]:
    head = _trial(trial)
    for each in trial.rounds:
        for client in each.clients or (None,):
            yield (*head, *_round(each), *_client(client))


def _trial(trial: Trial) -> tuple[Any, ...]:
    plan = trial.plan
    probability = plan.delay.probability if plan.delay else 0.0
    settings = value_text(plan.settings)
    return (
        plan.index,
        plan.condition,
        plan.repeat,
        settings,
        probability,
        trial.status,
        trial.total_s,
        trial.target_s,
    )


def _round(each: Round) -> tuple[Any, ...]:
    return (each.number, each.started_s, each.duration_s, each.accuracy)


def _client(row: ClientRound | None) -> tuple[Any, ...]:
    return (row.client, row.compute_s, row.requested_s, row.measured_s) if row else (None,) * 4
