"""How values are written for people: swept settings, seconds, signed differences; text only, never markup."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deploy.manifest import PlannedTrial

PROBABILITY = "delay.probability"
SECONDS = "delay.seconds"
_SYMBOLS = {PROBABILITY: "p", SECONDS: "d"}
_LINK = "link."
_UNITS = {"ms": "ms", "pct": "%", "mbit": "Mbit/s"}
MINUS, TIMES, UNKNOWN = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}", "\N{EN DASH}"


def setting_name(key: str) -> str:
    """Return the symbol of a swept key (`p`, `d`), the app's own name of a run_config key, or the key itself.

    A link's keys are written without their unit: `link delay`, `link up rate`.
    """
    if key.startswith(_LINK):
        return key.rpartition("_")[0].replace(".", " ")
    return _SYMBOLS.get(key, key.removeprefix("run_config."))


def value_text(value: Any) -> str:  # noqa: ANN401 - a swept value is whatever YAML holds
    """Write a swept value: numbers short, text as it is, all else as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:g}"
    return json.dumps(value, ensure_ascii=False, default=str)


def setting_text(plan: PlannedTrial, key: str) -> str:
    """Write the value of swept `key` in a trial; a delay's size and what a link is like with their units."""
    if key.startswith(_LINK):
        return _link_text(key, plan.settings[key])
    if key == SECONDS and plan.delay is not None:
        return plan.delay.seconds.label
    return value_text(plan.settings[key]) + (" s" if key == SECONDS else "")


def settings_text(plan: PlannedTrial) -> str:
    """Write all swept values of a trial, for example `p = 0.2, d = 3 s` or `delay 20 ms, no rate limit`."""
    return ", ".join(pair_text(plan, key) for key in plan.settings) or "as in the playbook"


def pair_text(plan: PlannedTrial, key: str) -> str:
    """Write a swept key with its value in a trial, as short as an axis wants it."""
    return named_text(key, plan.settings[key], setting_text(plan, key))


def named_text(key: str, value: Any, text: str | None = None) -> str:  # noqa: ANN401 - as value_text
    """Write a swept key with a value, as `text` has it; a link's without the word."""
    if not key.startswith(_LINK):
        return f"{setting_name(key)} = {value_text(value) if text is None else text}"
    name = setting_name(key).removeprefix("link ")
    return f"no {name} limit" if value is None else f"{name} {_link_text(key, value)}"


def _link_text(key: str, value: Any) -> str:  # noqa: ANN401 - as value_text
    return "no limit" if value is None else f"{value_text(value)} {_UNITS[key.rpartition('_')[2]]}"


def seconds_text(value_s: float | None) -> str:
    """Write seconds without the unit: two decimals below 1000, none above; a dash for None."""
    if value_s is None:
        return UNKNOWN
    return fixed(value_s, 2 if abs(value_s) < 1000 else 0)  # noqa: PLR2004 - as the docstring says


def fixed(value: float, digits: int = 2) -> str:
    """Write a number with so many decimals, a negative one with a true minus."""
    return f"{value:.{digits}f}".replace("-", MINUS)


def significant(value: float, digits: int = 2) -> str:
    """Write a number with so many digits that count, without an exponent where that is short: 120, 0.0012."""
    return f"{float(f'{value:.{digits}g}'):g}".replace("-", MINUS)


def span_text(low: str | None, high: str | None) -> str:
    """Write an interval from its ends as they are written; one that is open to one side as a bound."""
    if low is None or high is None:
        return UNKNOWN if low == high else f"≤ {high}" if low is None else f"≥ {low}"
    return f"{low} to {high}"


def count_text(number: int, what: str) -> str:
    """Write how many of something there are: `1 round`, `2 rounds`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def signed(text: str) -> str:
    """Give a number's text a sign that is as wide as a digit: +1.2, or -1.2 with a true minus; zero has none."""
    if not text.strip(f"-{MINUS}0."):
        return text.lstrip(f"-{MINUS}")
    return MINUS + text[1:] if text[0] in f"-{MINUS}" else text if text == UNKNOWN else f"+{text}"


def times_text(ratio: float) -> str:
    """Write a ratio as in "3.1 times", with the sign for it."""
    return f"{ratio:.2g} {TIMES}" if ratio < 10 else f"{ratio:.0f} {TIMES}"  # noqa: PLR2004 - two digits either way
