"""Leads a client's link through the trials: proves it when a trial opens, and lets it change as its course says.

Steps are told to the shaping process ahead of time, so that a client whose app computes is not late with them.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Self

import msgspec

from flclient.link import proof
from flclient.link.shaper import Setting, Shaper, ShapingFailed
from flcommon.eventlog import EventLog, Moment, now
from flcommon.events import LinkProved
from flcommon.link import Chance, Link, Step, Steps, Switching, course_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from flclient.probe import Prober
    from flcommon.events import Place
    from flcommon.job import ClientJob, ClientTrial

AHEAD_S = 60.0
"""So far ahead steps are told."""
ATTEMPTS = 3
"""How often a link is measured before it counts as wrong: somebody else's traffic may have been in the way."""
MOST_STATES = 20
"""Of so many different steps each is proved once in a campaign; of a longer course, these."""


class Conductor:
    """One client's link. Use it as a context manager; raises ShapingFailed where the link is not as asked.

    `is_over` says whether there is nothing to wait for any more, as the server is gone.
    """

    def __init__(self, job: ClientJob, shaper: Shaper, log: EventLog, is_over: Callable[[], bool]) -> None:
        self._job = job
        self._shaper = shaper
        self._log = log
        self._is_over = is_over
        self._trial: ClientTrial | None = None
        self._course: _Course | None = None
        self._round = 0
        self._began: Moment | None = None
        self._inject = True
        self._proved: set[bytes] = set()
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._told_s = 0.0
        self._over = False
        self._thread = threading.Thread(target=self._lead, name="conductor", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._over = True
            self._wake.notify_all()
        self._thread.join()

    def open(self, trial: ClientTrial, prober: Prober) -> None:
        """Prove what this trial asks for, and leave the link as its first step says; raises probe.Interrupted."""
        self.close()
        self._shaper.clear(trial.index, 0)
        if trial.link is None:
            return
        chance = Chance(self._job.delay_seed, self._job.host, trial.schedule)
        self._trial, self._course = trial, _Course(trial.link, chance)
        self._round, self._inject, self._began = 0, True, None
        first = self._course.at(0.0)
        for step in (*_states(trial.link), first):
            if not _is_natural(step) and (step is first or _key(step) not in (*self._proved, _key(first))):
                self._prove(step, prober)
        self._shaper.set(self._setting(first))
        self._shaper.begin_counting()

    def close(self) -> None:
        """The trial is over: be natural."""
        with self._lock:
            had, self._trial, self._course = self._trial, None, None
        if had is not None:
            self._shaper.clear(had.index, self._round)

    def mark(self, place: Place, *, up: bool) -> None:
        """Have logged what was done to this message."""
        self._shaper.mark(place, up=up)

    def hold(self) -> None:
        """Return when what was asked for is in force: not while it is off for want of a controller."""
        self._shaper.hold(self._is_over)

    def enter(self, number: int) -> None:
        """A message of this round is here; with the first, the course begins."""
        with self._lock:
            self._round = max(self._round, number)
            if self._began is None and number > 0 and self._course is not None:
                self._began, self._told_s = now(), 0.0
                self._wake.notify_all()

    def switch(self, *, inject: bool) -> None:
        """Inject from now on, or nothing; the course's time goes on meanwhile."""
        with self._lock:
            self._inject = inject
            course, elapsed_s = self._course, self._elapsed_s
            if course is None:
                return
            self._told_s = elapsed_s
        setting = self._setting(course.at(elapsed_s))
        if inject:
            self._shaper.set(setting)
        else:
            self._shaper.clear(setting.trial, setting.round)
        self._shaper.begin_counting()
        with self._lock:
            self._wake.notify_all()

    # --- inside -------------------------------------------------------------------------------------------------------

    @property
    def _elapsed_s(self) -> float:
        return self._began.until_s(now()) if self._began is not None else 0.0

    def _setting(self, step: Step) -> Setting:
        trial = self._trial.index if self._trial is not None else -1
        return Setting(trial, self._round, step.state, step.up, step.down)

    def _lead(self) -> None:
        """Tell steps ahead, as long as there are any."""
        while True:
            with self._lock:
                if self._over:
                    return
                due = self._due()
                if not due:
                    # Half of what is told ahead: the next ones are told long before they are due.
                    self._wake.wait(AHEAD_S / 2)
                    continue
                try:
                    # Under the lock: what a control round, or the trial's end, makes void must not be told after it.
                    for setting, at_ns in due:
                        self._shaper.set_later(setting, at_ns)
                except ShapingFailed:
                    return  # who asks next is told

    def _due(self) -> list[tuple[Setting, int]]:
        """Return the steps that are to be told now."""
        if self._course is None or self._began is None or not self._inject:
            return []
        until_s = self._elapsed_s + AHEAD_S
        due = [
            (self._setting(step), self._began.mono_ns + round(step.at_s * 1e9))
            for step in self._course.between(self._told_s, until_s)
        ]
        self._told_s = until_s
        return due

    def _prove(self, step: Step, prober: Prober) -> None:
        """Measure a step against the natural link; raises ShapingFailed if it is off, each time again."""
        new = _key(step) not in self._proved
        found = self._measure(step, prober, rates=new)
        attempts = 1
        while any(one.off for one in found) and attempts < ATTEMPTS:
            found = self._measure(step, prober, rates=new)
            attempts += 1
        up, down = found
        event = LinkProved(
            trial=self._trial.index if self._trial is not None else -1,
            client=self._job.host,
            layer=self._shaper.layer,
            requested_up_ms=up.requested_ms,
            measured_up_ms=up.measured_ms,
            requested_down_ms=down.requested_ms,
            measured_down_ms=down.measured_ms,
            tolerance_ms=max(up.tolerance_ms, down.tolerance_ms),
            attempts=attempts,
            requested_up_mbit=up.requested_mbit,
            up_mbit=up.mbit,
            requested_down_mbit=down.requested_mbit,
            down_mbit=down.mbit,
        )
        self._log.write(event)
        if wrong := [one.off for one in found if one.off]:
            raise ShapingFailed(
                f"the {self._shaper.layer} layer does not do what was asked, measured {attempts} times: "
                + "; ".join(wrong)
            )
        self._proved.add(_key(step))

    def _measure(self, step: Step, prober: Prober, *, rates: bool) -> tuple[proof.Direction, proof.Direction]:
        self.hold()
        up, down = step.up, step.down
        count, every_ms = proof.pings_for(up, down)
        setting = self._setting(step)
        self._shaper.clear(setting.trial, setting.round)
        before = prober.pings(count, every_ms)
        self._shaper.set(setting)
        delays = proof.both(up, down, before, prober.pings(count, every_ms))
        if not rates or not (up.rate_mbit or down.rate_mbit):
            return delays
        return proof.with_rates(up, down, delays, prober.goodput(proof.load_bytes(up, down)))


class _Course:
    """The steps of one link as they come, kept: time goes back to none, but may skip some."""

    def __init__(self, link: Link, chance: Chance) -> None:
        self._source: Iterator[Step] = course_of(link, chance)
        self._steps: list[Step] = [next(self._source)]

    def at(self, elapsed_s: float) -> Step:
        """Return the step that holds at a time."""
        self._reach(elapsed_s)
        return [step for step in self._steps if step.at_s <= elapsed_s][-1]

    def between(self, after_s: float, until_s: float) -> list[Step]:
        """Return the steps that begin later than a time, and up to another."""
        self._reach(until_s)
        return [step for step in self._steps if after_s < step.at_s <= until_s]

    def _reach(self, until_s: float) -> None:
        while self._steps[-1].at_s <= until_s:
            step = next(self._source, None)
            if step is None:
                return
            self._steps.append(step)


def _states(link: Link) -> list[Step]:
    """Return the different things that a link that changes may be, each once; nothing for one that does not."""
    course = link.course
    match course:
        case Switching():
            steps = [Step(state=name, up=one.up, down=one.down) for name, one in course.states.items()]
        case Steps():
            steps = list(course.steps) if len(course.steps) > 1 else []
    kept: dict[bytes, Step] = {}
    for step in steps:
        kept.setdefault(_key(step), step)
    return list(kept.values())[:MOST_STATES]


def _is_natural(step: Step) -> bool:
    return step.up.natural and step.down.natural


def _key(step: Step) -> bytes:
    return msgspec.json.encode((step.up, step.down))
