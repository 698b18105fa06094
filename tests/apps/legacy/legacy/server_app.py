"""legacy: A Flower app in the style before Flower 1.20 (server_fn, flwr.server.strategy)."""

from flwr.common import Context
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg


def weighted_average(metrics):
    """Aggregate by the number of examples."""
    examples = sum(count for count, _ in metrics)
    return {name: sum(count * each[name] for count, each in metrics) / examples for name in metrics[0][1]}


def fit_config(server_round):
    """Tell the clients which round it is."""
    return {"server_round": server_round}


def evaluate(server_round, parameters, config):
    """Evaluate centrally: the loss is the distance of the first weight from 12."""
    return abs(12.0 - float(parameters[0][0])), {"central_round": server_round}


def server_fn(context: Context):
    """Construct components that set the ServerApp behaviour."""
    strategy = FedAvg(
        fraction_fit=context.run_config["fraction-fit"],
        fraction_evaluate=1.0,
        min_available_clients=2,
        on_fit_config_fn=fit_config,
        evaluate_fn=evaluate,
        fit_metrics_aggregation_fn=weighted_average,
        evaluate_metrics_aggregation_fn=weighted_average,
    )
    config = ServerConfig(num_rounds=context.run_config["num-server-rounds"])
    return ServerAppComponents(strategy=strategy, config=config)


# Create ServerApp
app = ServerApp(server_fn=server_fn)
