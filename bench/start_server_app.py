"""The program that `bench/start_server.py` runs: a server or a client of `flwr.server.start_server`.

The server sends a float32 array to all clients, checks that the bytes come back, and aggregates nothing, as the payload
app does. A client either is a `NumPyClient`, which is what users write and costs a conversion each way, or a bare
`Client` that returns the bytes unread, as the payload app's client does. Flower's logging is off.

    start_server_app.py server ADDRESS BYTES ROUNDS CLIENTS RESULT
    start_server_app.py client ADDRESS numpy|unread
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from flwr.client import Client, NumPyClient, start_client
from flwr.common import Code, FitIns, FitRes, Status, ndarrays_to_parameters
from flwr.server import ServerConfig, start_server
from flwr.server.strategy import FedAvg

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flwr.common import NDArrays, Parameters, Scalar
    from flwr.server.client_manager import ClientManager
    from flwr.server.client_proxy import ClientProxy

LISTENING = "listening"
"""Said once clients can connect."""


class OtherBytes(Exception):
    """A client sent back other bytes than it got, or failed."""


class Timed(FedAvg):
    """FedAvg without the averaging; `rounds` holds when configure_fit began, and the seconds to aggregate_fit's end."""

    def __init__(self, parameters: Parameters, clients: int) -> None:
        super().__init__(
            fraction_evaluate=0.0, min_fit_clients=clients, min_available_clients=clients, initial_parameters=parameters
        )
        self.rounds: list[tuple[int, float]] = []
        self._sent = parameters
        self._clients = clients
        self._started_ns = 0

    def initialize_parameters(self, client_manager: ClientManager) -> Parameters | None:
        """Say that clients can connect: Flower calls this once its gRPC server runs."""
        print(LISTENING, flush=True)
        return super().initialize_parameters(client_manager)

    def configure_fit(
        self, server_round: int, parameters: Parameters, client_manager: ClientManager
    ) -> list[tuple[ClientProxy, FitIns]]:
        """Start the clock."""
        self._started_ns = time.monotonic_ns()
        return super().configure_fit(server_round, parameters, client_manager)

    def aggregate_fit(
        self,
        server_round: int,  # noqa: ARG002 - Flower's signature
        results: list[tuple[ClientProxy, FitRes]],
        failures: list[tuple[ClientProxy, FitRes] | BaseException],
    ) -> tuple[Parameters | None, dict[str, Scalar]]:
        """Check the bytes, keep the first client's parameters, and stop the clock."""
        returned = [result.parameters.tensors for _, result in results]
        if failures or returned != [self._sent.tensors] * self._clients:
            raise OtherBytes(f"{len(failures)} failures")
        self.rounds.append((self._started_ns, (time.monotonic_ns() - self._started_ns) / 1e9))
        return results[0][1].parameters, {}


class NumPyEcho(NumPyClient):
    """Returns the arrays it got."""

    def fit(self, parameters: NDArrays, config: dict[str, Scalar]) -> tuple[NDArrays, int, dict[str, Scalar]]:  # noqa: ARG002 - Flower's signature
        """Return the arrays, and one example to Flower's count."""
        return parameters, 1, {}


class UnreadEcho(Client):
    """Returns the bytes it got."""

    def fit(self, ins: FitIns) -> FitRes:
        """Return the bytes, and one example to Flower's count."""
        return FitRes(Status(Code.OK, ""), ins.parameters, 1, {})


def _server(address: str, size_bytes: str, rounds: str, clients: str, result: str) -> None:
    array = np.random.default_rng(1).random(int(size_bytes) // 4, dtype=np.float32)
    strategy = Timed(ndarrays_to_parameters([array]), int(clients))
    start_server(server_address=address, config=ServerConfig(num_rounds=int(rounds)), strategy=strategy)
    Path(result).write_bytes(msgspec.json.encode(strategy.rounds))


def _client(address: str, kind: str) -> None:
    echo = NumPyEcho().to_client() if kind == "numpy" else UnreadEcho()
    start_client(server_address=address, client=echo)


def main(arguments: Sequence[str]) -> None:
    """Be the server or a client."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    role, *rest = arguments
    roles: dict[str, Any] = {"server": _server, "client": _client}
    roles[role](*rest)


if __name__ == "__main__":
    main(sys.argv[1:])
