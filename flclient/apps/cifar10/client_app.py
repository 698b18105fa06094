"""The client half: a Flower ClientApp that trains and evaluates the CNN on this client's share of the data."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from flclient.apps.cifar10 import data, partition, settings, task

if TYPE_CHECKING:
    from flwr.app import Context

    from flclient.apps.cifar10.data import Examples, Source
    from flclient.apps.cifar10.partition import Share
    from flclient.apps.cifar10.settings import Settings

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the model received on this client's examples; reply with its weights, the mean loss and the count."""
    configured = settings.read(context.run_config)
    _use_threads(configured)
    share = _share(configured, context)
    examples = own_examples(configured.source, share)
    server_round = cast("int", message.content.config_records["config"]["server-round"])
    net = _received_net(message)
    recipe = configured.recipe(round_seed(configured.seed, share.partition_id, server_round))
    loss = task.train(net, examples, recipe)
    metrics = MetricRecord({"train-loss": loss, "num-examples": len(examples)})
    reply = RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics})
    return Message(reply, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the model received on the whole test set."""
    configured = settings.read(context.run_config)
    _use_threads(configured)
    examples = data.load(configured.source, train=False)
    score = task.evaluate(_received_net(message), examples)
    metrics = MetricRecord({"eval-accuracy": score.accuracy, "eval-loss": score.loss, "num-examples": len(examples)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


@lru_cache(maxsize=2)
def own_examples(source: Source, share: Share) -> Examples:
    """Return a client's training examples, made once per process, so that later trials find them ready."""
    whole = data.load(source, train=True)
    return whole.take(partition.indices(whole.labels.numpy(), share))


def round_seed(seed: int, partition_id: int, server_round: int) -> int:
    """Return a 64-bit seed for one client's training in one round; all rounds and clients get unrelated ones."""
    return int(np.random.SeedSequence([seed, partition_id, server_round]).generate_state(1, np.uint64)[0])


def _share(configured: Settings, context: Context) -> Share:
    node = context.node_config
    return configured.share(int(node["partition-id"]), int(node["num-partitions"]))


def _received_net(message: Message) -> task.Net:
    net = task.Net()
    net.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    return net


def _use_threads(configured: Settings) -> None:
    """Set PyTorch's threads in each call: OpenMP keeps the number per calling thread, and engines differ in theirs."""
    if configured.threads:
        torch.set_num_threads(configured.threads)
