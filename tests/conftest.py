"""What all rings of tests share: flwr's idea of whose process this is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flcommon import flower

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def flower_identity() -> Iterator[None]:
    """Be run 5, node 1, as flserver is in trial 3; put back what was said before."""
    names = ("_run_id", "_task_id", "_node_id")
    before = [getattr(flower.TaskIdentity, name) for name in names]
    flower.set_identity(5, flower.SERVER_NODE_ID)
    yield
    for name, value in zip(names, before, strict=True):
        setattr(flower.TaskIdentity, name, value)
