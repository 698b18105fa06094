"""modded: client mods of Flower's, and one of the app's own."""

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import arrays_size_mod, fixedclipping_mod, message_size_mod


def counting_mod(msg: Message, context: Context, call_next):
    """Count the messages in the state, and say in the reply which it is."""
    counted = context.state.get("counted", MetricRecord({"messages": 0}))
    counted["messages"] += 1
    context.state["counted"] = counted
    reply = call_next(msg, context)
    reply.content["metrics"]["messages"] = counted["messages"]
    return reply


app = ClientApp(mods=[message_size_mod, counting_mod])


@app.train(mods=[arrays_size_mod, fixedclipping_mod])
def train(msg: Message, context: Context):
    """Move far along (3, 4): clipped to the norm, that is (0.6, 0.8) of it."""
    (model,) = msg.content["arrays"].to_numpy_ndarrays()
    content = {"arrays": ArrayRecord([model + np.array([30.0, 40.0])]), "metrics": MetricRecord({"num-examples": 1})}
    return Message(RecordDict(content), reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context):
    """Report the model."""
    (model,) = msg.content["arrays"].to_numpy_ndarrays()
    metrics = MetricRecord({"x": float(model[0]), "y": float(model[1]), "num-examples": 1})
    return Message(RecordDict({"metrics": metrics}), reply_to=msg)
