"""paced: the client sleeps instead of training and evaluating; the second one trains twice as long."""

import time

from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(msg: Message, context: Context) -> Message:
    """Take `train-s`, and as much more for each partition before this one."""
    time.sleep(context.run_config["train-s"] * (1 + context.node_config["partition-id"]))
    metrics = MetricRecord({"num-examples": 1})
    return Message(RecordDict({"arrays": msg.content["arrays"], "metrics": metrics}), reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context) -> Message:
    """Take `evaluate-s`."""
    time.sleep(context.run_config["evaluate-s"])
    return Message(RecordDict({"metrics": MetricRecord({"loss": 1.0, "num-examples": 1})}), reply_to=msg)
