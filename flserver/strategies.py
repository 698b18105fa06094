"""Times the ServerApp's own work and reads its metrics, without a change to the app.

Flower's strategies run their rounds in `Strategy.start`. For the time of a trial that method is wrapped: the
instance's configure and aggregate steps and the app's `evaluate_fn` are timed, and the MetricRecords they return are
logged. An app that drives the Grid by itself runs just as well; it has no phases then.
"""

from __future__ import annotations

import functools
import inspect
import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flwr.serverapp.strategy import Strategy

from flcommon.eventlog import EventLog, now
from flcommon.events import Metrics, TargetReached

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flwr.app import MetricRecord

    from flcommon.job import ServerTrial
    from flserver.rounds import Rounds

PHASES = {
    "configure_train": "configure",
    "configure_evaluate": "configure",
    "aggregate_train": "aggregate",
    "aggregate_evaluate": "aggregate",
}
SOURCES = {"aggregate_train": "train", "aggregate_evaluate": "evaluate"}


class TargetMet(BaseException):
    """Ends a ServerApp once the `stop` condition holds. Not an Exception: the app's own handlers must not stop it."""


@dataclass(frozen=True)
class StrategyWatch:
    """What is noted while the strategies of one trial run."""

    trial: ServerTrial
    rounds: Rounds
    log: EventLog

    def step(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap one of the strategy's steps, whose first argument is the round."""

        @functools.wraps(method)
        def timed(server_round: int, *args: Any, **rest: Any) -> Any:  # noqa: ANN401 - passes on what it gets
            self.rounds.enter(server_round)
            started = now()
            result = method(server_round, *args, **rest)
            self.rounds.phase(PHASES[name], started)
            if name in SOURCES:
                self.report(SOURCES[name], server_round, result[1] if isinstance(result, tuple) else result)
            return result

        return timed

    def evaluation(self, evaluate: Callable[..., MetricRecord | None]) -> Callable[..., MetricRecord | None]:
        """Wrap the app's central evaluation; raises TargetMet when its result satisfies the `stop` condition."""

        @functools.wraps(evaluate)
        def timed(server_round: int, *args: Any) -> MetricRecord | None:  # noqa: ANN401 - passes on what it gets
            started = now()
            metrics = evaluate(server_round, *args)
            self.rounds.phase("evaluate", started)
            self.report("central", server_round, metrics)
            self.check_target(server_round, metrics)
            return metrics

        return timed

    def report(self, source: str, server_round: int, metrics: MetricRecord | None) -> None:
        """Log the scalar metrics of a record. JSON has no word for NaN or infinity: such a value is left out."""
        values = {k: float(v) for k, v in (metrics or {}).items() if isinstance(v, int | float) and math.isfinite(v)}
        if values:
            self.log.write(Metrics(trial=self.trial.index, round=server_round, source=source, values=values))

    def check_target(self, server_round: int, metrics: MetricRecord | None) -> None:
        """End the trial if the metric that the playbook names has reached its target."""
        stop = self.trial.stop
        if stop is None or server_round == 0:
            return
        value = metrics.get(stop.metric) if metrics else None
        if isinstance(value, int | float) and value >= stop.at_least:
            self.rounds.leave()
            event = TargetReached(trial=self.trial.index, round=server_round, metric=stop.metric, value=float(value))
            self.log.write(event)
            raise TargetMet

    def start(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return a `Strategy.start` that watches its instance, then does what the original does."""

        @functools.wraps(original)
        def watched(strategy: Strategy, *args: Any, **rest: Any) -> Any:  # noqa: ANN401 - passes on what it gets
            call = inspect.signature(original).bind(strategy, *args, **rest)
            if call.arguments.get("evaluate_fn") is not None:
                call.arguments["evaluate_fn"] = self.evaluation(call.arguments["evaluate_fn"])
            with _shadowed(strategy, {name: self.step(name, getattr(strategy, name)) for name in PHASES}):
                result = original(*call.args, **call.kwargs)
            self.rounds.leave()
            return result

        return watched


@contextmanager
def _shadowed(strategy: Strategy, methods: dict[str, Callable[..., Any]]) -> Iterator[None]:
    """Put methods on the instance, before those of its class, for a while."""
    before = {name: vars(strategy)[name] for name in methods if name in vars(strategy)}
    vars(strategy).update(methods)
    try:
        yield
    finally:
        for name in methods:
            vars(strategy).pop(name, None)
        vars(strategy).update(before)


@contextmanager
def watching(watch: StrategyWatch) -> Iterator[None]:
    """Watch every strategy that is started inside."""
    original = Strategy.start
    Strategy.start = watch.start(original)  # type: ignore[method-assign]  # Flower has no hook here (1.41)
    try:
        yield
    finally:
        Strategy.start = original  # type: ignore[method-assign]
