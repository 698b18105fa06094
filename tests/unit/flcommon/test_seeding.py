"""Fresh randomness for a trial."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest

from flcommon.seeding import seed_everything


def draws() -> tuple[list[float], list[float]]:
    return [random.random() for _ in range(5)], np.random.rand(5).tolist()  # noqa: NPY002, S311 - as apps draw


def test_the_same_seed_gives_the_same_draws_whatever_ran_before() -> None:
    """Python's random and numpy's legacy state start afresh."""
    seed_everything(42)
    first = draws()
    draws()
    seed_everything(42)
    assert draws() == first
    seed_everything(43)
    other = draws()
    assert other[0] != first[0]
    assert other[1] != first[1]


def test_torch_is_seeded_where_it_is_loaded() -> None:
    """Weights that torch draws are the same for the same seed."""
    torch = pytest.importorskip("torch")
    seed_everything(42)
    first = torch.rand(5)
    seed_everything(42)
    assert torch.equal(torch.rand(5), first)


def test_torch_is_not_loaded_for_it() -> None:
    """A host that measures the network alone needs no torch."""
    script = (
        "import sys; from flcommon.seeding import seed_everything; seed_everything(1); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("seed", [0, 2**31 - 1])
def test_every_learning_seed_is_accepted(seed: int) -> None:
    """A plan's seeds have 31 bits; numpy takes 32."""
    seed_everything(seed)
