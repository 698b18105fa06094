"""Times the ServerApp's own work and reads its metrics, without a change to the app.

Flower's strategies run their rounds in `Strategy.start`, the older ones in a `flwr.server.Server` or a workflow
(`flserver.legacy`). While a trial lasts these are wrapped: the instance's configure and aggregate steps and the central
evaluation are timed, and the metrics that they return are logged. An app that drives the Grid by itself runs just as
well; it has no phases then.
"""

from __future__ import annotations

import functools
import inspect
import math
import time
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from numbers import Real
from typing import TYPE_CHECKING, Any

from flwr.app import Message
from flwr.serverapp.strategy import Strategy, strategy_utils

from flcommon.eventlog import EventLog, now
from flcommon.events import Metrics, TargetReached
from flserver import legacy
from flserver.errors import ServerError
from flserver.legacy import replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from flcommon.job import ServerTrial
    from flserver.rounds import Rounds

PHASES = {
    "configure_train": "configure",
    "configure_evaluate": "configure",
    "aggregate_train": "aggregate",
    "aggregate_evaluate": "aggregate",
}
SOURCES = {
    "aggregate_train": "train",
    "aggregate_fit": "train",
    "aggregate_evaluate": "evaluate",
    "evaluate": "central",
}
"""The steps that return metrics, and the metrics' source in the log."""


_LOOK_S = 1.0


class TargetMet(BaseException):
    """Ends a ServerApp once the `stop` condition holds. Not an Exception: the app's own handlers must not stop it."""


@dataclass
class StrategyWatch:
    """What is noted while the strategies of one trial run; `names` gives the campaign's clients by node id.

    `present` says how many of them are there; None: all.
    `central`: whether the metric of the `stop` condition is one that the app evaluates centrally; else what the clients
    evaluated counts. `asked` is how many clients the last round's training was for; `watched` are the strategies that
    run, and the evaluations that are timed.
    """

    trial: ServerTrial
    rounds: Rounds
    log: EventLog
    names: Mapping[int, str] = field(default_factory=dict)
    present: Callable[[], int] | None = None
    central: bool = False
    asked: int = 0
    watched: list[object] = field(default_factory=list)

    def step(self, name: str, phase: str, method: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap one of the strategy's steps, whose first argument is the round."""

        @functools.wraps(method)
        def timed(*args: Any, **rest: Any) -> Any:  # noqa: ANN401 - passes on what it gets
            server_round = args[0] if args else rest["server_round"]
            self.rounds.enter(server_round)
            given = [*args[1:], *(value for key, value in rest.items() if key != "server_round")]
            if name in {"aggregate_train", "aggregate_fit"}:
                self.check_failures(server_round, given)
            legacy.put_in_order(given[0] if given else None)
            started = now()
            result = method(*args, **rest)
            self.rounds.phase(phase, started)
            if name in {"configure_train", "configure_fit"}:
                self.asked = len(result) if isinstance(result, list | tuple) else 0
            if name in SOURCES:
                self.report(SOURCES[name], server_round, legacy.metrics(name, result))
            return result

        return timed

    def evaluation(self, evaluate: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap the app's central evaluation; raises TargetMet when its result satisfies the `stop` condition."""
        return self.step("evaluate", "evaluate", evaluate)

    def report(self, source: str, server_round: int, metrics: Mapping[str, object] | None) -> None:
        """Log the numbers among metrics, and end the trial if they reach its target.

        JSON has no word for NaN or infinity: such a value is named apart, in words.
        """
        numbers = {name: float(value) for name, value in (metrics or {}).items() if isinstance(value, Real)}
        values = {name: value for name, value in numbers.items() if math.isfinite(value)}
        others = {name: str(value) for name, value in numbers.items() if not math.isfinite(value)}
        if numbers:
            place = {"trial": self.trial.index, "round": server_round}
            self.log.write(Metrics(**place, source=source, values=values, not_finite=others))
        if source != "train":
            self.check_target(source, server_round, values)

    def check_target(self, source: str, server_round: int, values: Mapping[str, float]) -> None:
        """End the trial if the metric that the playbook names has reached its target."""
        stop = self.trial.stop
        value = values.get(stop.metric) if stop else None
        if stop is None or value is None:
            return
        self.central = self.central or source == "central"
        if server_round == 0 or (self.central and source != "central") or not value >= stop.at_least:
            return
        self.rounds.leave()
        self.log.write(TargetReached(trial=self.trial.index, round=server_round, metric=stop.metric, value=value))
        raise TargetMet

    def check_failures(self, server_round: int, arguments: Sequence[object]) -> None:
        """Raise ServerError if every client failed: a strategy would go on to the last round with nothing learnt.

        `arguments` are those of a strategy's aggregate step: replies, or (older ones) results and failures. A client
        that is late has not failed.
        """
        first = arguments[0] if arguments else None
        if not isinstance(first, list | tuple) or 0 < len(first) < self.asked:
            return
        if first and all(isinstance(one, Message) and one.has_error() for one in first):
            client = self.names.get(first[0].metadata.src_node_id, str(first[0].metadata.src_node_id))
            self._fail(server_round, f"{client}: {first[0].error.reason}")
        failures = arguments[1] if len(arguments) > 1 else None
        if not first and isinstance(failures, list) and failures:
            self._fail(server_round, legacy.reason(failures[0], self.names))

    def wait_for_more(self, *_: object) -> None:
        """Let a second pass for a strategy that waits for clients; raises ServerError if nobody is left to come.

        One who was given up may yet be back. How long it is worth while to wait for that is the Grid's to say.
        """
        if self.present is not None and self.present() < len(self.names):
            time.sleep(_LOOK_S)
            return
        why = f"the strategy waits for more clients than the {len(self.names)} of this campaign"
        raise ServerError(f"round {self.rounds.number}", f"{why} (min_available_nodes, or how many it samples)")

    def _fail(self, server_round: int, why: str) -> None:
        raise ServerError(f"round {server_round}", f"the app failed on every client; {why}")

    def start(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return a `Strategy.start` that watches its instance, then does what the original does."""

        @functools.wraps(original)
        def watched(strategy: Strategy, *args: Any, **rest: Any) -> Any:  # noqa: ANN401 - passes on what it gets
            call = inspect.signature(original).bind(strategy, *args, **rest)
            evaluate = call.arguments.get("evaluate_fn")
            # A subclass's start may have called its parent's: then both are watched already.
            if evaluate is not None and not self._knows(evaluate):
                self.watched.append(self.evaluation(evaluate))
                call.arguments["evaluate_fn"] = self.watched[-1]
            with nullcontext() if self._knows(strategy) else self.watching(strategy, PHASES):
                return original(*call.args, **call.kwargs)

        return watched

    def _knows(self, one: object) -> bool:
        return any(one is known for known in self.watched)

    @contextmanager
    def watching(self, strategy: object, phases: Mapping[str, str]) -> Iterator[None]:
        """Put timed steps on an instance, before those of its class, while it runs; its rounds end with it."""
        steps = {name: self.step(name, phase, getattr(strategy, name)) for name, phase in phases.items()}
        self.watched.append(strategy)
        try:
            with _shadowed(strategy, steps):
                yield
        finally:
            self.watched.remove(strategy)
        self.rounds.leave()


@contextmanager
def _shadowed(strategy: object, methods: dict[str, Callable[..., Any]]) -> Iterator[None]:
    """Put methods on the instance for a while."""
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
    """Watch every strategy that is started inside. Flower has no hook for it (1.41)."""
    with ExitStack() as stack:
        for kind in _starting(Strategy):
            stack.enter_context(replaced(kind, "start", watch.start(vars(kind)["start"])))
        # Its only use is to wait for clients, in steps of a second, for ever.
        stack.enter_context(replaced(strategy_utils, "sleep", watch.wait_for_more))
        stack.enter_context(legacy.watching(watch.watching, watch.wait_for_more))
        yield


def _starting(kind: type) -> list[type]:
    """Return the classes from `kind` on that have a `start` of their own: apps override it to save their models."""
    children: list[type] = kind.__subclasses__()
    below = [one for child in children for one in _starting(child)]
    return list(dict.fromkeys([*([kind] if "start" in vars(kind) else []), *below]))
