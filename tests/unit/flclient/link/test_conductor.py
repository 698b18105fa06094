"""How a link goes on in time: which step holds, which are to come, and which are proved."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from flclient.link.conductor import MOST_STATES, _Course, _states
from flcommon.link import Chance, Link, State, Step, Steps, Switching, Way, course_of

SLOW, FAST = Way(delay_ms=40), Way(delay_ms=5)
SWITCHING = Link(course=Switching(states={"good": State(mean_s=5, up=FAST), "bad": State(mean_s=1, up=SLOW)}))
STEPS = Link(course=Steps(steps=(Step(up=FAST), Step(at_s=2, up=SLOW), Step(at_s=5, up=FAST), Step(at_s=6))))
WHO = Chance(1, "a", 0)


@given(times=st.lists(st.floats(0, 300), min_size=1, max_size=20))
def test_the_step_that_holds_does_not_depend_on_how_often_one_looks(times: list[float]) -> None:
    """Whatever was looked at before, forward or back, the answer is that of the course itself."""
    course = _Course(SWITCHING, WHO)
    for time_s in times:
        steps = course_of(SWITCHING, WHO)
        here = next(steps)
        for step in steps:
            if step.at_s > time_s:
                break
            here = step
        assert course.at(time_s) == here


def test_every_step_is_told_once() -> None:
    """Consecutive looks ahead meet without a gap and without an overlap; the first step holds from the beginning."""
    course = _Course(STEPS, WHO)
    told = [step.at_s for start, end in pairwise((0.0, 1.0, 2.0, 5.5, 100.0)) for step in course.between(start, end)]
    assert told == [2, 5, 6]
    assert course.at(1e6) == Step(at_s=6)


def test_each_different_step_is_proved_once() -> None:
    """Coming back to a step is no other step; what does not change has no states; a long trace proves the first."""
    assert [(one.up, one.down) for one in _states(STEPS)] == [(FAST, Way()), (SLOW, Way()), (Way(), Way())]
    assert [one.state for one in _states(SWITCHING)] == ["good", "bad"]
    assert _states(Link(course=Steps(steps=(Step(up=SLOW),)))) == []
    trace = Link(course=Steps(steps=tuple(Step(at_s=second, up=Way(delay_ms=second + 1)) for second in range(100))))
    assert len(_states(trace)) == MOST_STATES


def test_switching_is_the_same_for_the_same_seed_client_and_schedule_alone() -> None:
    """Two strategies, two orders of trials, two releases of numpy: one course; another client has another."""

    def first(who: Chance) -> list[Step]:
        steps = course_of(SWITCHING, who)
        return [next(steps) for _ in range(50)]

    assert first(WHO) == first(Chance(1, "a", 0))
    assert all(first(WHO) != first(other) for other in (Chance(2, "a", 0), Chance(1, "b", 0), Chance(1, "a", 1)))
    assert [round(step.at_s, 6) for step in first(WHO)[:4]] == [0.0, 9.670967, 10.556733, 21.343817]


def test_states_last_as_long_as_they_say_on_average() -> None:
    """Exponential times with the states' means: within 5 standard errors over 2,000 changes of state."""
    steps = course_of(SWITCHING, WHO)
    told = [next(steps) for _ in range(4001)]
    lasted: dict[str, list[float]] = {"good": [], "bad": []}
    for here, then in pairwise(told):
        lasted[here.state].append(then.at_s - here.at_s)
    for name, mean_s in (("good", 5.0), ("bad", 1.0)):
        times = lasted[name]
        assert len(times) == 2000
        assert abs(sum(times) / len(times) - mean_s) < 5 * mean_s / len(times) ** 0.5
