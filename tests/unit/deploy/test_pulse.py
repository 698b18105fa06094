"""What is said to a host, and when: bursts, one word at a time, and last words."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from deploy.pulse import Pace, Pulse

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

NEVER_S = 600.0


def answered(pulse: Pulse, count: int) -> list[int]:
    """Take words and answer each; return their numbers."""
    numbers = []
    for _ in range(count):
        numbers.append(int(next(pulse)))
        assert pulse.answered(numbers[-1]) is not None
    return numbers


@pytest.fixture
def waiting() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def test_it_begins_with_a_burst_and_goes_on_now_and_then() -> None:
    """Within a burst words are `quick_s` apart at most, after it `renew_s`, and never less than half of that."""
    pulse = Pulse(Pace(burst=5, quick_s=0.02, renew_s=0.2))
    assert answered(pulse, 1) == [1]
    began = time.monotonic()
    assert answered(pulse, 4) == [2, 3, 4, 5]
    assert time.monotonic() - began >= 4 * 0.01
    began = time.monotonic()
    assert answered(pulse, 1) == [6]
    assert time.monotonic() - began >= 0.1


def test_a_stamp_is_the_last_thing_before_a_word_goes() -> None:
    pulse = Pulse(Pace())
    before = time.monotonic_ns(), time.time_ns()
    number = int(next(pulse))
    after = time.monotonic_ns(), time.time_ns()
    sent = pulse.answered(number)
    assert before[0] <= sent.mono_ns <= after[0]
    assert before[1] <= sent.wall_ns <= after[1]


def test_the_next_word_waits_for_the_answer(waiting: ThreadPoolExecutor) -> None:
    """Words that pile up on a slow way would wait for each other, and measure themselves."""
    pulse = Pulse(Pace(quick_s=0.0))
    number = int(next(pulse))
    following = waiting.submit(next, pulse)
    assert pulse.answered(number + 1) is None
    pulse.burst()
    assert not following.done()
    assert pulse.answered(number) is not None
    assert int(following.result(10)) == number + 1
    assert pulse.answered(number) is None


def test_a_burst_may_be_asked_for_at_any_time(waiting: ThreadPoolExecutor) -> None:
    """Also while the next word is far away."""
    pulse = Pulse(Pace(burst=2, quick_s=0.0, renew_s=NEVER_S))
    answered(pulse, 2)
    following = waiting.submit(answered, pulse, 2)
    pulse.burst()
    assert following.result(10) == [3, 4]


@pytest.mark.parametrize("leave", [False, True])
def test_last_words(waiting: ThreadPoolExecutor, *, leave: bool) -> None:
    """A last burst without pauses, then the word that the campaign is left, if it is; then no more."""
    pulse = Pulse(Pace(burst=3, quick_s=NEVER_S, renew_s=NEVER_S, last_s=NEVER_S))
    answered(pulse, 1)
    following = waiting.submit(answered, pulse, 3)
    pulse.end(leave=leave)
    assert following.result(10) == [2, 3, 4]
    assert list(pulse) == ([b"leave\n"] if leave else [])


def test_a_host_that_does_not_answer_is_left_all_the_same() -> None:
    """Last words wait for `last_s`: the one that matters is said, in case it is heard."""
    pulse = Pulse(Pace(last_s=0.02))
    next(pulse)
    pulse.end(leave=True)
    assert list(pulse) == [b"leave\n"]


def test_close_ends_who_waits(waiting: ThreadPoolExecutor) -> None:
    """And what was not said by then never is."""

    def ended(following: Future[list[bytes]]) -> bool:
        return following.result(10) == []

    pulse = Pulse(Pace())
    next(pulse)
    following = waiting.submit(list, pulse)
    pulse.close()
    assert ended(following)
    pulse.end(leave=True)
    assert list(pulse) == []
