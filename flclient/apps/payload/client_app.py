"""The client half: a Flower ClientApp that sends back the arrays it got, unread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

if TYPE_CHECKING:
    from flwr.app import Context

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:  # noqa: ARG001 - Flower's signature
    """Reply with the arrays as received, and one example to Flower's count."""
    arrays = message.content["arrays"]
    metrics = MetricRecord({"num-examples": 1})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)
