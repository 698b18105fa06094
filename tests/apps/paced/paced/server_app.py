"""paced: federated averaging of nothing, whose evaluation by the server takes as long as it is told to."""

import time

import numpy as np
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Take `central-s` for the evaluation of every round."""

    def evaluate(_number: int, _arrays: ArrayRecord) -> MetricRecord:
        time.sleep(context.run_config["central-s"])
        return MetricRecord({"loss": 1.0})

    FedAvg().start(
        grid=grid,
        initial_arrays=ArrayRecord([np.zeros(1000)]),
        num_rounds=context.run_config["num-server-rounds"],
        evaluate_fn=evaluate,
    )
