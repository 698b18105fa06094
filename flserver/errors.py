"""What can go wrong on the server in a way that ends the campaign."""

from __future__ import annotations

from flcommon.errors import FieldlabError


class ServerError(FieldlabError):
    """The campaign cannot go on; `step` says where it was."""

    def __init__(self, step: str, reason: str) -> None:
        self.step, self.reason = step, reason
        super().__init__(f"{step}: {reason}")


class ClientLost(ServerError):
    """A client's stream ended before the campaign did."""

    def __init__(self, client: str, step: str, reason: str) -> None:
        self.client = client
        super().__init__(step, f"{client} is gone: {reason}")
