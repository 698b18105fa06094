"""What can go wrong on the server in a way that ends the campaign."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flcommon.errors import StepError

if TYPE_CHECKING:
    from collections.abc import Mapping


class ServerError(StepError):
    """The campaign cannot go on; `step` says where it was."""


class ClientsLost(ServerError):
    """No client is left; `reasons` says why, by name."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        self.reasons = dict(reasons)
        super().__init__("run", f"no client is left: {'; '.join(f'{name}: {why}' for name, why in reasons.items())}")
