"""own_grid: federated analytics that talks to the Grid itself."""

import json
import time

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


def wait_for(grid: Grid, ids, seconds):
    """Pull replies until all are here, as Flower's embedded-devices example does."""
    ids, replies = set(ids), []
    while ids:
        for reply in grid.pull_messages(ids):
            replies.append(reply)
            ids.discard(reply.metadata.reply_to_message_id)
        time.sleep(seconds)
    return replies


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Ask for bounds, then a histogram, then train for two rounds of two message types each."""
    nodes = list(grid.get_node_ids())
    poll = context.run_config["poll.seconds"]

    asked = [Message(RecordDict(), dst_node_id=node, message_type=MessageType.QUERY) for node in nodes]
    bounds = [reply.content["bounds"] for reply in wait_for(grid, grid.push_messages(asked), poll)]
    low, high = min(one["low"] for one in bounds), max(one["high"] for one in bounds)

    edges = [float(edge) for edge in np.linspace(low, high + 1, context.run_config["bins"] + 1)]
    content = RecordDict({"query": ConfigRecord({"edges": edges})})
    asked = [Message(content, node, "query.histogram", group_id="histogram") for node in nodes]
    counts = sum(np.array(reply.content["counts"]["counts"]) for reply in grid.send_and_receive(asked))

    model, notes, distances = np.array([0.0]), [], []
    for number in (1, 2):
        content = RecordDict({"model": ArrayRecord([model])})
        asked = [Message(content, node, MessageType.TRAIN, group_id=str(number)) for node in nodes]
        replies = grid.send_and_receive(asked, timeout=60)
        model = np.mean([reply.content["model"].to_numpy_ndarrays()[0] for reply in replies], axis=0)
        content = RecordDict({"model": ArrayRecord([model]), "config": ConfigRecord({"note": f"round {number}"})})
        asked = [Message(content, node, MessageType.EVALUATE, group_id=str(number)) for node in nodes]
        replies = grid.send_and_receive(asked)
        distances.append(sorted(reply.content["metrics"]["distance"] for reply in replies))
        notes += [reply.content["said"]["note"] for reply in replies]

    found = {"low": low, "high": high, "counts": counts.tolist(), "model": model.tolist(), "nodes": len(nodes)}
    print(json.dumps({**found, "distances": distances, "notes": notes}))
