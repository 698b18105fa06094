"""stateful: a server that handles a client's failure by itself."""

import json

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


def ask(grid: Grid, kind: str, cycle: int):
    """Send one message to all nodes and return the replies."""
    content = RecordDict({"config": ConfigRecord({"cycle": cycle, "server-round": cycle})})
    return list(grid.send_and_receive([Message(content, node, kind) for node in grid.get_node_ids()]))


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train in two ways in each cycle, then ask what the clients remember."""
    errors, draws = [], []
    for cycle in range(1, context.run_config["cycles"] + 1):
        replies = ask(grid, "train.local", cycle)
        errors += [[cycle, reply.error.code, reply.error.reason] for reply in replies if reply.has_error()]
        good = [reply.content["metrics"] for reply in replies if not reply.has_error()]
        draws += [[cycle, one["partition"], one["draw"]] for one in good]
        ask(grid, "train.global", cycle)
    told = [dict(reply.content["told"]) for reply in ask(grid, "query", cycle)]
    own = len(context.state)
    context.state["seen"] = ConfigRecord({"yes": True})
    print(json.dumps({"told": told, "errors": errors, "draws": draws, "own": own}))
