"""The server half: a Flower ServerApp that drives federated averaging and evaluates each round's model centrally."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch
from flwr.app import ArrayRecord, MetricRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

from flclient.apps.cifar10 import data, settings, task

if TYPE_CHECKING:
    from collections.abc import Callable

    from flwr.app import Context, RecordDict
    from flwr.serverapp import Grid

    from flclient.apps.cifar10.settings import Settings

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run all rounds with all nodes of the grid; leave the scores in `context.state["central-evaluation"]`."""
    configured = settings.read(context.run_config)
    if not list(grid.get_node_ids()):
        raise RuntimeError("the grid has no nodes to train on")
    # FedAvg samples nodes with `random`, Net draws its weights from torch's global generator.
    random.seed(configured.seed)
    torch.manual_seed(configured.seed)
    # All nodes that are there, one at least: FedAvg would wait for ever for one that is lost and was counted on.
    strategy = FedAvg(fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=1, min_available_nodes=1)
    strategy.start(
        grid,
        initial_arrays=ArrayRecord(task.Net().state_dict()),
        num_rounds=configured.num_server_rounds,
        timeout=configured.round_timeout,
        evaluate_fn=central_evaluation(configured, context.state),
    )


def central_evaluation(configured: Settings, state: RecordDict) -> Callable[[int, ArrayRecord], MetricRecord]:
    """Return a function (round, weights) -> accuracy and loss on the test set, which also appends them to `state`."""
    examples = data.load(configured.source, train=False)
    rounds: list[int] = []
    scores: list[task.Score] = []

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        if configured.threads:
            torch.set_num_threads(configured.threads)
        net = task.Net()
        net.load_state_dict(arrays.to_torch_state_dict())
        score = task.evaluate(net, examples)
        rounds.append(server_round)
        scores.append(score)
        state["central-evaluation"] = _history(rounds, scores)
        return MetricRecord({"accuracy": score.accuracy, "loss": score.loss})

    return evaluate


def _history(rounds: list[int], scores: list[task.Score]) -> MetricRecord:
    """Return one list for each column, as a MetricRecord holds no rows."""
    accuracies, losses = [score.accuracy for score in scores], [score.loss for score in scores]
    return MetricRecord({"server-round": list(rounds), "accuracy": accuracies, "loss": losses})
