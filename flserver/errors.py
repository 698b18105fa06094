"""What can go wrong on the server in a way that ends the campaign."""

from __future__ import annotations

from flcommon.errors import StepError


class ServerError(StepError):
    """The campaign cannot go on; `step` says where it was."""


class ClientLost(ServerError):
    """A client's stream ended before the campaign did."""

    def __init__(self, client: str, step: str, reason: str) -> None:
        self.client = client
        super().__init__(step, f"{client} is gone: {reason}")
