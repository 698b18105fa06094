"""legacy: A Flower app in the style before Flower 1.20 (client_fn, NumPyClient)."""

import numpy as np
from flwr.client import ClientApp, NumPyClient
from flwr.common import Context


class FlowerClient(NumPyClient):
    """Adds its step to every weight."""

    def __init__(self, step, partition_id):
        self.step = step
        self.partition_id = partition_id

    def get_parameters(self, config):
        """Return the initial model."""
        return [np.full(4, 2.0)]

    def fit(self, parameters, config):
        """Train: partition k counts for k + 1 examples, and moves by its step times k + 1."""
        moved = [weights + self.step * (self.partition_id + 1) for weights in parameters]
        return moved, self.partition_id + 1, {"round": config["server_round"]}

    def evaluate(self, parameters, config):
        """Evaluate: the loss is the mean weight."""
        return float(np.mean(parameters[0])), self.partition_id + 1, {"accuracy": float(np.mean(parameters[0])) / 10}


def client_fn(context: Context):
    """Construct a Client that will be run in a ClientApp."""
    return FlowerClient(context.run_config["step"], context.node_config["partition-id"]).to_client()


# Flower ClientApp
app = ClientApp(client_fn=client_fn)
