"""stateful: a client that remembers, and that has two ways of training."""

import random

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


def history(context: Context) -> ConfigRecord:
    """Return the record of what this client has done in this run."""
    if "history" not in context.state:
        context.state["history"] = ConfigRecord({"done": [""]})
    return context.state["history"]


@app.train("local")
def train_local(msg: Message, context: Context):
    """Note the training; partition `fails` raises in the second cycle."""
    partition, cycle = context.node_config["partition-id"], msg.content["config"]["cycle"]
    if partition == context.run_config["fails"] and cycle == 2:
        raise ValueError(f"partition {partition} has no data in cycle {cycle}")
    history(context)["done"] = [*history(context)["done"], f"local-{cycle}"]
    metrics = MetricRecord({"partition": partition, "draw": random.random()})
    return Message(RecordDict({"metrics": metrics}), reply_to=msg)


@app.train("global")
def train_global(msg: Message, context: Context):
    """Note the other training."""
    history(context)["done"] = [*history(context)["done"], f"global-{msg.content['config']['cycle']}"]
    return Message(RecordDict({"metrics": MetricRecord({"ok": 1})}), reply_to=msg)


@app.query()
def tell(msg: Message, context: Context):
    """Tell what was done."""
    node, config = context.node_config, context.run_config
    told = {"done": history(context)["done"], "greeting": config["greeting"], "seed": config["seed"]}
    place = {"partition": node["partition-id"], "partitions": node["num-partitions"]}
    return Message(RecordDict({"told": ConfigRecord({**told, **place})}), reply_to=msg)
