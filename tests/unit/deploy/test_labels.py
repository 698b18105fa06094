"""How swept settings are written for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from deploy.labels import MINUS, UNKNOWN, count_text, settings_text, signed, significant, span_text
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


def test_an_interval_that_is_open_to_one_side_is_a_bound() -> None:
    assert span_text("1.60", "2.10") == "1.60 to 2.10"
    assert span_text("1.60", None) == "≥ 1.60"
    assert span_text(None, "2.10") == "≤ 2.10"
    assert span_text(None, None) == UNKNOWN


def test_a_sign_is_set_once_whichever_the_minus_was() -> None:
    said = [signed(each) for each in ("1.2", "-1.2", f"{MINUS}1.2", "-0.00", f"{MINUS}0", "0.0", UNKNOWN)]
    assert said == ["+1.2", f"{MINUS}1.2", f"{MINUS}1.2", "0.00", "0", "0.0", UNKNOWN]


def test_numbers_are_written_without_exponents_hyphens_and_wrong_plurals() -> None:
    assert [significant(each) for each in (123.4, 0.00123, -0.024, 5.0)] == ["120", "0.0012", f"{MINUS}0.024", "5"]
    assert [count_text(each, "round") for each in (0, 1, 2)] == ["0 rounds", "1 round", "2 rounds"]


@pytest.mark.parametrize("key", SETTABLE)
def test_everything_that_can_be_swept_of_a_link_has_a_unit(plan: Plan, key: str) -> None:
    assert settings_text(msgspec.structs.replace(plan.trials[0], settings={key: 7})).partition(" 7 ")[2]
