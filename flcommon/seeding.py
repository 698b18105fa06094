"""Fresh randomness for a trial: the same seed gives the same draws, whatever ran before in the process."""

from __future__ import annotations

import random
import sys

import numpy as np


def seed_everything(seed: int) -> None:
    """Seed Python's `random` (Flower samples clients with it), numpy's legacy state and torch, where it is loaded."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - apps of users draw from the legacy state
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(seed)
