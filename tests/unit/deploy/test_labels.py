"""How swept settings are written for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from deploy.labels import settings_text
from deploy.links import SETTABLE

if TYPE_CHECKING:
    from deploy.plan import Plan


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"link.delay_ms": 20, "link.rate_mbit": None}, "delay 20 ms, no rate limit"),
        ({"link.up.loss_pct": 0.5, "link.down.rate_mbit": 10}, "up loss 0.5 %, down rate 10 Mbit/s"),
        ({"link.jitter_ms": 2.0, "run_config.lr": 0.1}, "jitter 2 ms, lr = 0.1"),
    ],
)
def test_a_swept_link_is_written_with_its_units(plan: Plan, settings: dict[str, object], text: str) -> None:
    """And without them in the name."""
    assert settings_text(msgspec.structs.replace(plan.trials[0], settings=settings)) == text


@pytest.mark.parametrize("key", SETTABLE)
def test_everything_that_can_be_swept_of_a_link_has_a_unit(plan: Plan, key: str) -> None:
    assert settings_text(msgspec.structs.replace(plan.trials[0], settings={key: 7})).partition(" 7 ")[2]
