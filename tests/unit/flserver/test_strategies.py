"""Flower's strategies are watched without a change to the app, and are left as they were found."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Strategy, strategy_utils

from flcommon import flower
from flcommon.events import Metrics, PhaseEnded, RoundEnded, RoundStarted, TargetReached
from flcommon.job import ServerTrial, Stop
from flcommon.seeding import seed_everything
from flserver.errors import ServerError
from flserver.rounds import Rounds
from flserver.strategies import PHASES, StrategyWatch, TargetMet, watching

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class EchoGrid(Grid):
    """Three clients that send back the arrays they get; each reports its node id as its loss."""

    def __init__(self) -> None:
        self.sent = 0

    def get_node_ids(self) -> list[int]:
        return [1001, 1002, 1003]

    def send_and_receive(
        self,
        messages: Iterable[Message],
        *,
        timeout: float | None = None,  # noqa: ARG002 - Flower's signature
    ) -> list[Message]:
        return [self._answer(message) for message in messages]

    def _answer(self, message: Message) -> Message:
        self.sent += 1
        flower.set_message_id(message, str(self.sent))
        loss = float(message.metadata.dst_node_id)
        records = {"metrics": MetricRecord({"num-examples": 1, "loss": loss, "curve": [1.0]})}
        if message.metadata.message_type == "train":
            records["arrays"] = message.content.array_records["arrays"]
        return Message(RecordDict(records), reply_to=message)

    set_run = create_message = push_messages = pull_messages = run = property(lambda _: None)


class Quiet(FedAvg):
    """FedAvg as an app would subclass it."""

    def summary(self) -> None:
        """Print nothing."""


ARRAYS = ArrayRecord([np.zeros(3, dtype=np.float32)])
ACCURACY = [0.1, 0.3, 0.6, 0.9]


def accuracy(server_round: int, arrays: ArrayRecord) -> MetricRecord:  # noqa: ARG001 - Flower's signature
    return MetricRecord({"accuracy": ACCURACY[server_round], "names": [1, 2]})


@pytest.fixture
def grid() -> EchoGrid:
    return EchoGrid()


@pytest.fixture
def watch(log: Any) -> Callable[..., StrategyWatch]:
    """Return a function that makes the watch of trial 5, with or without a `stop` condition."""

    def make(stop: Stop | None = None) -> StrategyWatch:
        trial = ServerTrial(index=5, seed=1, run_config={}, rounds=3, stop=stop)
        return StrategyWatch(trial, Rounds(log, trial.index), log)

    return make


def test_every_step_of_every_round_is_timed(log: Any, grid: EchoGrid, watch: Callable) -> None:
    """Round 0 evaluates the initial model; each round configures and aggregates twice and evaluates once."""
    with watching(watch()):
        Quiet().start(grid, ARRAYS, num_rounds=2, evaluate_fn=accuracy)
    a_round = ["configure", "aggregate", "configure", "aggregate", "evaluate"]
    phases = [(event.round, event.phase) for event in log.of(PhaseEnded)]
    assert phases == [(0, "evaluate")] + [(number, phase) for number in (1, 2) for phase in a_round]
    assert all(event.trial == 5 and event.duration_s >= 0 for event in log.of(PhaseEnded))


def test_the_metrics_are_those_the_app_reported(log: Any, grid: EchoGrid, watch: Callable) -> None:
    """The clients' average loss, known to be 1002, and the central accuracy; lists are not a metric's value."""
    with watching(watch()):
        result = Quiet().start(grid, ARRAYS, num_rounds=1, evaluate_fn=accuracy)
    assert [(event.round, event.source, event.values) for event in log.of(Metrics)] == [
        (0, "central", {"accuracy": 0.1}),
        (1, "train", {"loss": pytest.approx(1002.0)}),
        (1, "evaluate", {"loss": pytest.approx(1002.0)}),
        (1, "central", {"accuracy": 0.3}),
    ]
    assert result.train_metrics_clientapp[1]["loss"] == pytest.approx(1002.0)


def test_rounds_end_with_the_strategy(log: Any, grid: EchoGrid, watch: Callable) -> None:
    """What an app does after `start` (saving the model) is in no round."""
    watched = watch()
    with watching(watched):
        Quiet().start(grid, ARRAYS, num_rounds=3, evaluate_fn=accuracy)
        total_s = watched.rounds.total_s
        assert [event.round for event in log.of(RoundEnded)] == [1, 2, 3]
    durations = [event.duration_s for event in log.of(RoundEnded)]
    assert sum(durations) == pytest.approx(total_s, rel=1e-9)
    phases_s = [sum(e.duration_s for e in log.of(PhaseEnded) if e.round == number) for number in (1, 2, 3)]
    assert all(part <= whole for part, whole in zip(phases_s, durations, strict=True))


def test_a_result_is_what_flower_makes_without_us(grid: EchoGrid, watch: Callable) -> None:
    """Watching changes neither the arrays nor the metrics of the app."""
    seed_everything(1)  # Flower samples the clients, and so the order of its sums
    plain = Quiet().start(EchoGrid(), ARRAYS, num_rounds=2, evaluate_fn=accuracy)
    seed_everything(1)
    with watching(watch()):
        watched = Quiet().start(grid, ARRAYS, num_rounds=2, evaluate_fn=accuracy)
    assert watched.arrays == plain.arrays
    assert watched.train_metrics_clientapp == plain.train_metrics_clientapp
    assert watched.evaluate_metrics_serverapp == plain.evaluate_metrics_serverapp


# --- stop -------------------------------------------------------------------------------------------------------------


def test_the_target_ends_the_trial(log: Any, grid: EchoGrid, watch: Callable) -> None:
    """Accuracy is .3, .6, .9: with a target of .55 round 2 is the last, it is ended, and the value is noted."""
    with watching(watch(Stop("accuracy", 0.55))), pytest.raises(TargetMet):
        Quiet().start(grid, ARRAYS, num_rounds=3, evaluate_fn=accuracy)
    assert log.of(TargetReached) == [TargetReached(trial=5, round=2, metric="accuracy", value=0.6)]
    assert [event.round for event in log.of(RoundStarted)] == [1, 2]
    assert [event.round for event in log.of(RoundEnded)] == [1, 2]
    assert grid.sent == 12


@pytest.mark.parametrize("stop", [Stop("accuracy", 0.91), Stop("f1", 0.0), Stop("names", 0.0)])
def test_a_target_that_is_not_met_ends_nothing(log: Any, grid: EchoGrid, watch: Callable, stop: Stop) -> None:
    """Neither a value below, nor a metric that the app does not report as one number."""
    with watching(watch(stop)):
        Quiet().start(grid, ARRAYS, num_rounds=3, evaluate_fn=accuracy)
    assert log.of(TargetReached) == []
    assert grid.sent == 18


def test_exactly_the_target_is_enough_but_not_before_the_first_round(log: Any, grid: EchoGrid, watch: Callable) -> None:
    """`at_least` includes the value; the initial model, which nobody has trained, ends no trial."""
    with watching(watch(Stop("accuracy", 0.1))), pytest.raises(TargetMet):
        Quiet().start(grid, ARRAYS, num_rounds=3, evaluate_fn=lambda *_: MetricRecord({"accuracy": 0.1}))
    assert [event.round for event in log.of(TargetReached)] == [1]


def test_an_app_cannot_catch_the_target_by_accident() -> None:
    """`except Exception` in an app must not go on with a trial that is over."""
    assert not issubclass(TargetMet, Exception)


# --- what the app does its own way ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_json_cannot_hold_is_said_in_words(log: Any, watch: Callable, bad: float) -> None:
    """A loss that diverged neither makes the line unreadable, nor goes unsaid, nor meets a target."""
    watch(Stop("loss", 0.5)).report("central", 1, MetricRecord({"loss": bad, "accuracy": 0.1}))
    watch().report("central", 2, MetricRecord({"loss": bad}))
    told = [(event.values, event.not_finite) for event in log.of(Metrics)]
    assert told == [({"accuracy": 0.1}, {"loss": str(bad)}), ({}, {"loss": str(bad)})]
    lines = [msgspec.json.encode(event) for event in log.of(Metrics)]
    assert [msgspec.json.decode(line, type=Metrics) for line in lines] == log.of(Metrics)


def test_an_app_without_evaluation_is_watched_too(log: Any, grid: EchoGrid, watch: Callable) -> None:
    """No evaluate_fn, or one that returns None, is Flower's to allow."""
    with watching(watch(Stop("accuracy", 0.5))):
        Quiet().start(grid, ARRAYS, num_rounds=1)
        Quiet().start(grid, ARRAYS, num_rounds=1, evaluate_fn=lambda *_: None)
    assert {event.source for event in log.of(Metrics)} == {"train", "evaluate"}


def test_positional_arguments_reach_start(log: Any, grid: EchoGrid, watch: Callable) -> None:
    """An app may give evaluate_fn by position."""
    with watching(watch()):
        Quiet().start(grid, ARRAYS, 1, 10.0, None, None, accuracy)
    assert [event.round for event in log.of(Metrics) if event.source == "central"] == [0, 1]


def test_overridden_steps_are_the_ones_called(log: Any, grid: EchoGrid, watch: Callable) -> None:
    """A subclass's own aggregate_train runs, and is timed."""
    called = []

    class Own(Quiet):
        def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple:
            called.append(server_round)
            return super().aggregate_train(server_round, replies)

    with watching(watch()):
        Own().start(grid, ARRAYS, num_rounds=2)
    assert called == [1, 2]
    assert [event.phase for event in log.of(PhaseEnded)].count("aggregate") == 4


def test_a_start_of_the_apps_own_is_watched_once(log: Any, grid: EchoGrid, watch: Callable) -> None:
    """Flower's examples override `start` to save models, with or without calling the parent's."""

    class Extended(Quiet):
        def start(self, *args: Any, **rest: Any) -> Any:
            return super().start(*args, **rest)

    class Rewritten(Quiet):
        def start(self, grid: Grid, arrays: ArrayRecord, evaluate_fn: Any) -> ArrayRecord:
            replies = grid.send_and_receive(self.configure_train(1, arrays, ConfigRecord(), grid))
            aggregated, _ = self.aggregate_train(1, replies)
            evaluate_fn(1, aggregated)
            return aggregated

    with watching(watch()):
        Extended().start(grid, ARRAYS, num_rounds=1, evaluate_fn=accuracy)
        assert len(log.of(PhaseEnded)) == 6
        Rewritten().start(grid, ARRAYS, evaluate_fn=accuracy)
    assert [event.phase for event in log.of(PhaseEnded)[6:]] == ["configure", "aggregate", "evaluate"]
    assert [event.source for event in log.of(Metrics)[-2:]] == ["train", "central"]


def test_what_clients_evaluate_counts_where_nobody_else_does(log: Any, grid: EchoGrid, watch: Callable) -> None:
    """Most apps evaluate on their clients: the average of what they report meets the target."""
    with watching(watch(Stop("loss", 1002.0))), pytest.raises(TargetMet):
        Quiet().start(grid, ARRAYS, num_rounds=3)
    assert [(event.round, event.value) for event in log.of(TargetReached)] == [(1, pytest.approx(1002.0))]
    assert [event.round for event in log.of(RoundEnded)] == [1]


def test_the_central_evaluation_goes_before_that_of_clients(log: Any, grid: EchoGrid, watch: Callable) -> None:
    """Where both report the metric, the ServerApp's own decides, and that of training never does."""

    def central(server_round: int, arrays: ArrayRecord) -> MetricRecord:  # noqa: ARG001 - Flower's signature
        return MetricRecord({"loss": 1000.0 + server_round})

    with watching(watch(Stop("loss", 1002.0))), pytest.raises(TargetMet):
        Quiet().start(grid, ARRAYS, num_rounds=3, evaluate_fn=central)
    assert [(event.round, event.value) for event in log.of(TargetReached)] == [(2, 1002.0)]


class BrokenGrid(EchoGrid):
    """Clients whose app raises on messages of some kinds, on all of them or on all but one."""

    def __init__(self, *kinds: str, good: int = 0) -> None:
        super().__init__()
        self._kinds, self._good = kinds, good

    def _answer(self, message: Message) -> Message:
        if message.metadata.message_type in self._kinds and message.metadata.dst_node_id != self._good:
            flower.set_message_id(message, "1")
            return flower.app_raised(message, "ZeroDivisionError: no data")
        return super()._answer(message)


def test_a_round_in_which_no_client_trains_ends_the_trial(log: Any, watch: Callable) -> None:
    """Flower would go on to the last round with the initial model; the error names a client and its reason."""
    watched = watch()
    watched.names = {1001: "pi-a", 1002: "pi-b", 1003: "pi-c"}
    with watching(watched), pytest.raises(ServerError) as caught:
        Quiet().start(BrokenGrid("train"), ARRAYS, num_rounds=3)
    step, _, why = str(caught.value).partition(": ")
    assert step == "round 1"
    assert why.startswith("the app failed on every client; pi-")
    assert why.endswith(": ZeroDivisionError: no data")
    assert log.of(Metrics) == []


def test_waiting_for_more_clients_than_there_are_is_an_error(grid: EchoGrid, watch: Callable) -> None:
    """FedAvg would look every second for ever, though nobody joins a campaign that runs. Loud: `sleep` is private."""
    with watching(watch()), pytest.raises(ServerError, match=r"^round 1: the strategy waits for more clients than"):
        Quiet(min_available_nodes=4).start(grid, ARRAYS, num_rounds=1)
    assert grid.sent == 0
    assert strategy_utils.sleep is time.sleep


def test_a_straggler_is_not_said_to_have_failed(log: Any, watch: Callable) -> None:
    """Two clients failed and one is late: that is not every client, and the next round may be better."""

    class Slow(BrokenGrid):
        def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
            return super().send_and_receive(messages, timeout=timeout)[:2]

    with watching(watch()):
        Quiet().start(Slow("train"), ARRAYS, num_rounds=2)
    assert [event.round for event in log.of(RoundEnded)] == [1, 2]


def test_a_round_goes_on_with_what_one_client_has_trained(log: Any, watch: Callable) -> None:
    """Failures are the strategy's to judge, and an app without an evaluate function is one that Flower runs."""
    with watching(watch()):
        result = Quiet().start(BrokenGrid("train", "evaluate", good=1002), ARRAYS, num_rounds=2)
        Quiet().start(BrokenGrid("evaluate"), ARRAYS, num_rounds=1)
    assert result.train_metrics_clientapp[2]["loss"] == 1002.0
    assert [event.round for event in log.of(RoundEnded)] == [1, 2]


# --- everything is put back -------------------------------------------------------------------------------------------


class AppError(Exception):
    pass


@pytest.mark.parametrize("error", [None, AppError(), TargetMet(), KeyboardInterrupt()])
def test_flower_is_as_it_was_afterwards(watch: Callable, error: BaseException | None) -> None:
    """`Strategy.start` is the original again, however the trial ended."""
    original = Strategy.start
    with pytest.raises(type(error)) if error else nullcontext(), watching(watch()):
        assert Strategy.start is not original
        assert Quiet.start is not original
        if error:
            raise error
    assert Strategy.start is original
    assert Quiet.start is original


@pytest.mark.parametrize("failing", [False, True])
def test_the_instance_is_as_it_was_afterwards(grid: EchoGrid, watch: Callable, *, failing: bool) -> None:
    """The app's strategy keeps its own steps, also one that the app has put on the instance itself."""

    def evaluate(_round: int, _arrays: ArrayRecord) -> MetricRecord | None:
        if failing:
            raise AppError
        return None

    strategy = Quiet()
    own = strategy.configure_train
    strategy.configure_train = own
    before = dict(vars(strategy))
    with watching(watch()), pytest.raises(AppError) if failing else nullcontext():
        strategy.start(grid, ARRAYS, num_rounds=1, evaluate_fn=evaluate)
    assert vars(strategy) == before
    assert set(PHASES) & set(vars(strategy)) == {"configure_train"}


def test_a_second_trial_is_watched_by_its_own_watch(log: Any, grid: EchoGrid, watch: Callable) -> None:
    """A strategy that an app keeps between trials is not timed twice."""
    strategy = Quiet()
    for _ in range(2):
        with watching(watch()):
            strategy.start(grid, ARRAYS, num_rounds=1)
    assert len(log.of(PhaseEnded)) == 8
    assert len(log.of(RoundEnded)) == 2
