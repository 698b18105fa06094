"""quickstart: A Flower / NumPy app."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from quickstart.task import load_data
from quickstart.task import test as test_fn
from quickstart.task import train as train_fn

# Flower ClientApp
app = ClientApp()


@app.train()
def train(msg: Message, context: Context):
    """Train the model on local data."""
    (weights,) = msg.content["arrays"].to_numpy_ndarrays()
    data = load_data(context.node_config["partition-id"], context.node_config["num-partitions"])
    weights, loss = train_fn(weights, data, context.run_config["local-epochs"], msg.content["config"]["lr"])

    # Construct and return reply Message
    metrics = {"train_loss": loss, "num-examples": len(data[0])}
    content = RecordDict({"arrays": ArrayRecord([weights]), "metrics": MetricRecord(metrics)})
    return Message(content=content, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context):
    """Evaluate the model on local data."""
    (weights,) = msg.content["arrays"].to_numpy_ndarrays()
    data = load_data(context.node_config["partition-id"], context.node_config["num-partitions"])
    metrics = {"eval_loss": test_fn(weights, data), "num-examples": len(data[0])}
    return Message(content=RecordDict({"metrics": MetricRecord(metrics)}), reply_to=msg)
