"""secagg: secure aggregation, as in Flower's example flower-secure-aggregation."""

import numpy as np
from flwr.client import ClientApp, NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.common import Context


class FlowerClient(NumPyClient):
    """Adds its partition id plus one to every weight."""

    def __init__(self, partition_id):
        self.partition_id = partition_id

    def fit(self, parameters, config):
        """Train."""
        return [weights + self.partition_id + 1 for weights in parameters], 10 * (self.partition_id + 1), {}

    def evaluate(self, parameters, config):
        """Evaluate."""
        return float(np.mean(parameters[0])), 1, {}


def client_fn(context: Context):
    """Construct a Client."""
    return FlowerClient(context.node_config["partition-id"]).to_client()


# Flower ClientApp
app = ClientApp(client_fn=client_fn, mods=[secaggplus_mod])
