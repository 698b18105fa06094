"""A Flower app whose rounds have four parts of known length: down, compute, up, pause.

run_config: `rounds`, `payload-bytes` there and back, `compute-s` on the client, `pause-s` on the server after a round.
"""

import time

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

client, server = ClientApp(), ServerApp()


@client.train()
def train(message: Message, context: Context) -> Message:
    """Compute for a while, and count the calls in the state that lasts for a trial."""
    calls = int(context.state.metric_records.get("calls", MetricRecord({"n": 0}))["n"]) + 1
    context.state["calls"] = MetricRecord({"n": calls})
    time.sleep(float(context.run_config["compute-s"]))
    return Message(
        RecordDict({"arrays": message.content["arrays"], "metrics": MetricRecord({"calls": calls})}), reply_to=message
    )


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Send the same bytes to everybody in each round; what comes back must be they."""
    size = int(context.run_config["payload-bytes"])
    arrays = ArrayRecord([np.frombuffer(np.random.default_rng(1).bytes(size), dtype=np.uint8)])
    for number in range(1, int(context.run_config["rounds"]) + 1):
        content = RecordDict({"arrays": arrays, "config": ConfigRecord({"server-round": number})})
        replies = grid.send_and_receive([Message(content, node, "train") for node in grid.get_node_ids()])
        for reply in replies:
            if reply.has_content() and reply.content["arrays"] != arrays:
                raise ValueError("other bytes came back than were sent")
        time.sleep(float(context.run_config["pause-s"]))
