"""The loud test for Flower's older strategies: where they are called from is not public, and they are watched there.

Guards flwr 1.41 (all of >=1.41,<2): `flwr.server.compat.app.run_fl`, `flwr.server.workflow.DefaultWorkflow`, and
`start_update_client_manager_thread` in both. When a new release makes it fail, `flserver.legacy` is the one to change.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import flwr.server.compat.app as server_engine
import flwr.server.workflow.default_workflows as workflow_engine
import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.common import ndarrays_to_parameters
from flwr.server import LegacyContext, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow
from flwr.serverapp import Grid, ServerApp

from flcommon import flower
from flcommon.events import Metrics, PhaseEnded, RoundEnded, TargetReached
from flcommon.job import ServerTrial, Stop
from flserver import strategies
from flserver.errors import ServerError
from flserver.rounds import Rounds, round_of
from flserver.strategies import StrategyWatch, TargetMet, watching

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

NODES = (1001, 1002, 1003, 1004)
"""Four equal shares: their average is exact."""
A_ROUND = ["configure", "aggregate", "evaluate", "configure", "aggregate"]


class Client(NumPyClient):
    """Adds one to the model; its loss is the model's value, and it fails where it is told to."""

    failing = False

    def get_parameters(self, config: dict) -> list:  # noqa: ARG002 - Flower's signature
        return [np.zeros(2)]

    def fit(self, parameters: list, config: dict) -> tuple:  # noqa: ARG002
        if self.failing:
            raise ZeroDivisionError("no data")
        return [parameters[0] + 1], 10, {"seen": float(parameters[0][0])}

    def evaluate(self, parameters: list, config: dict) -> tuple:  # noqa: ARG002
        return float(parameters[0][0]), 10, {"accuracy": float(parameters[0][0]) / 8}


class Lab(Grid):
    """Four ClientApps in this process, each with its Context."""

    def __init__(self) -> None:
        self.app = ClientApp(client_fn=lambda _: Client().to_client())
        self.rounds: Rounds | None = None
        self.sent: list[Message] = []

    @property
    def run(self) -> flower.Run:
        return flower.empty_run(5)

    def get_node_ids(self) -> list[int]:
        return list(NODES)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:  # noqa: ARG002
        return [self._answer(message) for message in messages]

    def _answer(self, message: Message) -> Message:
        self.sent.append(message)
        if self.rounds is not None:
            self.rounds.enter(round_of(message))
        flower.set_message_id(message, f"1-{len(self.sent)}")
        context = Context(5, message.metadata.dst_node_id, {}, RecordDict(), {})
        try:
            return self.app(message, context)
        except ZeroDivisionError as error:
            return flower.app_raised(message, f"ZeroDivisionError: {error}")

    set_run = create_message = push_messages = pull_messages = property(lambda _: None)


def mean(metrics: list[tuple[int, dict]]) -> dict:
    return {name: float(np.mean([values[name] for _, values in metrics])) for name in metrics[0][1]}


def strategy(**rest: Any) -> FedAvg:
    def evaluate(server_round: int, parameters: list, config: dict) -> tuple:  # noqa: ARG001 - Flower's signature
        return float(parameters[0][0]), {"accuracy": np.float32(server_round / 4)}

    given = {"evaluate_fn": evaluate, "fit_metrics_aggregation_fn": mean, "evaluate_metrics_aggregation_fn": mean}
    return FedAvg(**{**given, **rest})


def by_server(chosen: FedAvg, rounds: int) -> ServerApp:
    def server_fn(_: Context) -> ServerAppComponents:
        return ServerAppComponents(strategy=chosen, config=ServerConfig(num_rounds=rounds))

    return ServerApp(server_fn=server_fn)


def by_workflow(chosen: FedAvg, rounds: int) -> ServerApp:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        DefaultWorkflow()(grid, LegacyContext(context, config=ServerConfig(num_rounds=rounds), strategy=chosen))

    return app


@pytest.fixture
def lab() -> Lab:
    return Lab()


@pytest.fixture
def play(log: Any, lab: Lab) -> Callable[..., StrategyWatch]:
    """Return a function that runs an app under a watch, and see that no thread of it is left."""

    def run(app: ServerApp, stop: Stop | None = None, present: Callable[[], int] | None = None) -> StrategyWatch:
        before = set(threading.enumerate())
        trial = ServerTrial(index=5, seed=1, run_config={}, rounds=3, stop=stop)
        watch = StrategyWatch(
            trial, Rounds(log, 5), log, {1001: "pi-a", 1002: "pi-b", 1003: "pi-c", 1004: "pi-d"}, present
        )
        lab.rounds = watch.rounds
        context = Context(5, flower.SERVER_NODE_ID, {}, RecordDict(), {})
        try:
            with watching(watch):
                app(lab, context)
        finally:
            assert set(threading.enumerate()) <= before
        return watch

    return run


@pytest.mark.parametrize("engine", [by_server, by_workflow])
def test_the_older_strategies_phases_and_metrics_are_noted(log: Any, play: Callable, engine: Callable) -> None:
    """Two rounds from 0 upwards: all that the app reports is known, and so is in which round it does."""
    play(engine(strategy(), 2))
    phases = [(event.round, event.phase) for event in log.of(PhaseEnded)]
    assert phases == [(0, "evaluate")] + [(number, phase) for number in (1, 2) for phase in A_ROUND]
    assert [(event.round, event.source, event.values) for event in log.of(Metrics)] == [
        (0, "central", {"loss": 0.0, "accuracy": 0.0}),
        (1, "train", {"seen": 0.0}),
        (1, "central", {"loss": 1.0, "accuracy": 0.25}),
        (1, "evaluate", {"loss": 1.0, "accuracy": 0.125}),
        (2, "train", {"seen": 1.0}),
        (2, "central", {"loss": 2.0, "accuracy": 0.5}),
        (2, "evaluate", {"loss": 2.0, "accuracy": 0.25}),
    ]
    assert [event.round for event in log.of(RoundEnded)] == [1, 2]


@pytest.mark.parametrize("engine", [by_server, by_workflow])
def test_a_target_ends_the_trial_and_the_engines_thread(log: Any, play: Callable, engine: Callable) -> None:
    """Central accuracy is .25, .5: round 2 is the last, and Flower's thread that looks for clients ends with it."""
    with pytest.raises(TargetMet):
        play(engine(strategy(), 3), Stop("accuracy", 0.5))
    assert log.of(TargetReached) == [TargetReached(trial=5, round=2, metric="accuracy", value=0.5)]
    assert [event.round for event in log.of(RoundEnded)] == [1, 2]


def test_clients_evaluation_counts_without_a_central_one(log: Any, play: Callable) -> None:
    """The loss that clients report on average is the round's number."""
    with pytest.raises(TargetMet):
        play(by_server(strategy(evaluate_fn=None), 3), Stop("loss", 2))
    assert log.of(TargetReached) == [TargetReached(trial=5, round=2, metric="loss", value=2.0)]


@pytest.mark.parametrize("engine", [by_server, by_workflow])
def test_a_round_in_which_no_client_trains_is_the_end(monkeypatch: Any, play: Callable, engine: Callable) -> None:
    """As with the strategies of today: the reason is in the error."""
    monkeypatch.setattr(Client, "failing", True)
    with pytest.raises(ServerError, match=r"^round 1: the app failed on every client; .*ZeroDivisionError: no data"):
        play(engine(strategy(), 2))


@pytest.mark.parametrize("engine", [by_server, by_workflow])
def test_waiting_for_more_clients_than_there_are_is_an_error(play: Callable, engine: Callable) -> None:
    """Flower would wait for a day; nobody joins a campaign that runs."""
    with pytest.raises(ServerError, match=r"^round 1: the strategy waits for more clients than the 4 of this"):
        play(engine(strategy(min_available_clients=5), 2))


@pytest.mark.parametrize("engine", [by_server, by_workflow])
def test_a_client_that_was_given_up_may_yet_be_back(
    log: Any, lab: Lab, play: Callable, monkeypatch: Any, engine: Callable
) -> None:
    """A strategy may wait for it, as long as the Grid lets it: here it is back at the second look."""
    looks = iter([3, 3])
    monkeypatch.setattr(lab, "get_node_ids", lambda: list(NODES[: next(looks, 4)]))
    monkeypatch.setattr(strategies, "_LOOK_S", 0.0)
    initial = ndarrays_to_parameters([np.zeros(2)])
    play(engine(strategy(min_available_clients=4, initial_parameters=initial), 1), present=lambda: 3)
    assert [event.round for event in log.of(RoundEnded)] == [1]


def test_results_are_aggregated_in_the_order_of_the_clients(play: Callable) -> None:
    """A Server takes them from a set: the same trial gave the same sums to the last bit by luck alone."""
    orders = []

    class Noting(FedAvg):
        def aggregate_fit(self, server_round: int, results: list, failures: list) -> tuple:
            orders.append([proxy.node_id for proxy, _ in results])
            return super().aggregate_fit(server_round, results, failures)

    play(by_server(Noting(), 12))
    assert orders == [list(NODES)] * 12


def test_asking_for_the_initial_model_belongs_to_no_round(play: Callable, lab: Lab) -> None:
    """Without initial parameters one client is asked for its own, before round 1 begins."""
    play(by_server(strategy(), 1))
    assert lab.sent[0].metadata.message_type == "get_parameters"
    assert round_of(lab.sent[0]) == 0
    assert [round_of(message) for message in lab.sent[1:]] == [1] * 8


def test_initial_parameters_are_flowers_to_keep(log: Any, play: Callable) -> None:
    """Watching changes nothing: with three rounds from 5 the central loss is 5, 6, 7, 8."""
    play(by_server(strategy(initial_parameters=ndarrays_to_parameters([np.full(2, 5.0)])), 3))
    assert [event.values["loss"] for event in log.of(Metrics) if event.source == "central"] == [5.0, 6.0, 7.0, 8.0]


def test_flower_is_as_it_was_afterwards(play: Callable) -> None:
    """What is replaced for a trial is the original again."""
    names = [
        (server_engine, "run_fl"),
        (server_engine, "start_update_client_manager_thread"),
        (workflow_engine, "start_update_client_manager_thread"),
        (DefaultWorkflow, "__call__"),
    ]
    before = [getattr(*name) for name in names]
    chosen = strategy()
    own = dict(vars(chosen))
    play(by_workflow(chosen, 1))
    assert [getattr(*name) for name in names] == before
    assert vars(chosen) == own
