"""own_grid: federated analytics that talks to the Grid itself."""

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


def values(context: Context):
    """Return this client's values: the numbers below 10, from its partition upwards in steps of the partitions."""
    return np.arange(context.node_config["partition-id"], 10, context.node_config["num-partitions"])


@app.query()
def bounds(msg: Message, context: Context):
    """Answer with the smallest and the largest value."""
    own = values(context)
    return Message(RecordDict({"bounds": MetricRecord({"low": int(own.min()), "high": int(own.max())})}), reply_to=msg)


@app.query("histogram")
def histogram(msg: Message, context: Context):
    """Answer with the counts between the edges that are asked for."""
    counts, _ = np.histogram(values(context), bins=np.array(msg.content["query"]["edges"]))
    return Message(RecordDict({"counts": MetricRecord({"counts": [int(count) for count in counts]})}), reply_to=msg)


@app.train()
def train(msg: Message, context: Context):
    """Move the model towards the mean of the values."""
    (model,) = msg.content["model"].to_numpy_ndarrays()
    moved = model + 0.5 * (values(context).mean() - model)
    return Message(RecordDict({"model": ArrayRecord([moved])}), reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context):
    """Say how far the model is from the mean, and repeat what was asked."""
    (model,) = msg.content["model"].to_numpy_ndarrays()
    metrics = MetricRecord({"distance": float(abs(values(context).mean() - model[0]))})
    said = ConfigRecord({"note": msg.content["config"]["note"] + "!"})
    return Message(RecordDict({"metrics": metrics, "said": said}), reply_to=msg)
