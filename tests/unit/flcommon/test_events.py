"""The vocabulary of the logs."""

from __future__ import annotations

from typing import get_args

import pytest

from flcommon.events import AnyEvent, OfMessage, Place, is_training

KINDS = get_args(AnyEvent)


def test_every_kind_of_event_has_its_own_name_and_no_field_of_the_envelope() -> None:
    """Lines are flat: two kinds, or an event and its envelope, must never be taken for each other."""
    assert len({kind.__struct_config__.tag for kind in KINDS}) == len(KINDS) == 46
    envelope = {"v", "seq", "mono_ns", "wall_ns", "name"}
    assert not any(envelope & set(kind.__struct_fields__) for kind in KINDS)


def test_a_place_is_what_every_event_of_a_message_needs() -> None:
    """`Event(**place)` gives all that places a message, and nothing else."""
    assert set(Place.__annotations__) == set(OfMessage.__struct_fields__)


@pytest.mark.parametrize(
    ("kind", "training"),
    [("train", True), ("train.fine_tune", True), ("evaluate", False), ("query", False), ("training", False)],
)
def test_what_training_is(kind: str, *, training: bool) -> None:
    """A message type is `train` or `train.<action>`."""
    assert is_training(kind) is training
