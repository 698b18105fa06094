"""The manifest of a run directory: what was planned, on which hosts, with which versions, and how it ended.

`runs/<lab>/<playbook>-<UTC>/manifest.json`; the report needs nothing but it and raw/.
"""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - part of the contract below
from typing import Any, Literal

import msgspec

from deploy.errors import InputError
from flcommon.delay import Delay
from flcommon.job import ConfigValue, Shaping, Stop
from flcommon.link import Link

SCHEMA_VERSION = 1
MANIFEST_FILE = "manifest.json"


class PlannedTrial(msgspec.Struct, frozen=True, kw_only=True):
    """One run of one condition.

    `index` counts in the order of the plan (conditions within repeats), which is not the order of execution;
    `condition` numbers the combinations of swept values; trials with the same `schedule` draw the same delays;
    `seed` is where weights and data order start from; `rounds` is 0 where only the app knows how many. `settings` holds
    the swept values of this condition by their dotted keys, for example {"delay.probability": 0.2}. `links` are the
    links that are injected, by client; into every `control_every`-th round nothing is (0: there are no such rounds).
    """

    index: int
    condition: int
    repeat: int
    schedule: int
    seed: int
    rounds: int
    settings: dict[str, Any]
    run_config: dict[str, ConfigValue]
    delay: Delay | None = None
    stop: Stop | None = None
    links: dict[str, Link] = {}
    control_every: int = 0

    @property
    def injected_share(self) -> float:
        """The share of its rounds that are no control rounds; as many rounds as only the app knows go on for long."""
        if not self.control_every:
            return 1.0
        rounds = self.rounds or self.control_every
        return 1 - rounds // self.control_every / rounds


class HostRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A host of the campaign and what a look at it found (see `deploy.facts`)."""

    role: Literal["server", "client"]
    facts: dict[str, Any]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything about a run that is not in its logs.

    `trials` stand in the order of execution. `status` says how the campaign ended; `error` why, if it failed.
    `hosts` are those that took part; `absent` says why others of the inventory did not, `lost` which clients took no
    part any more at the end, and why: a campaign is complete all the same if its server completed it. `phases_s` is the
    controller's own account: seconds for hosts, connect, look, prepare, push, start, run, stop, pull. `tls` says
    whether server and clients proved to each other who they are; before there was TLS, no run did. `shaping` says by
    which layer each client's link is shaped, where the playbook asks for links at all.
    """

    schema: int
    campaign: str
    lab: str
    playbook: str
    app: str
    created_utc: str
    status: Literal["running", "complete", "failed", "interrupted"]
    error: str | None
    versions: dict[str, str]
    code_digest: str
    inventory: dict[str, Any]
    playbook_resolved: dict[str, Any]
    hosts: dict[str, HostRecord]
    trials: tuple[PlannedTrial, ...]
    phases_s: dict[str, float]
    absent: dict[str, str] = {}
    tls: bool = False
    lost: dict[str, str] = {}
    shaping: dict[str, Shaping] = {}

    @property
    def clients(self) -> tuple[str, ...]:
        """The names of the clients that took part, in the order of the inventory."""
        return tuple(name for name, record in self.hosts.items() if record.role == "client")

    @property
    def server(self) -> str:
        """The server's name."""
        return next(name for name, record in self.hosts.items() if record.role == "server")


def read_manifest(run: Path) -> Manifest:
    """Read `run`/manifest.json; raises InputError that names the file and what is wrong with it."""
    path = run / MANIFEST_FILE
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except OSError as error:
        raise InputError(path, f"this is not a run directory: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InputError(path, f"not a valid manifest: {error}") from error
    if manifest.schema != SCHEMA_VERSION:
        raise InputError(path, f"this version reads schema {SCHEMA_VERSION}, not {manifest.schema}", key="schema")
    return manifest
