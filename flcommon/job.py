"""The job: one JSON file per process with all that the process needs to know.

Written by `deploy.plan`, read by `flserver` and `flclient`. The same words as in the playbook, resolved: every trial in
the order of execution, this host's share of it, addresses, and the app.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import msgspec

from flcommon.decoding import decoded
from flcommon.delay import Delay
from flcommon.errors import FieldlabError
from flcommon.lease import LEASE_S
from flcommon.link import Layer, Link

if TYPE_CHECKING:
    from pathlib import Path

WARMUP = -1
"""The index of the warm-up, which is run like a trial and counts as none."""

PREPARE_TIMEOUT_S = 600.0
"""A first trial may have to load, or even download, a data set."""

ConfigValue = bool | int | float | str
"""What Flower allows in a run_config or node_config (`flwr.app.UserConfigValue`)."""


class JobError(FieldlabError):
    """A job file that this version cannot run."""


class AppRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the Flower app's two halves are: `package.module:attribute`, as in a Flower pyproject.toml.

    `directory` is where an app that is a directory lies in the pushed code; None for one that is importable as it is.
    """

    client: str
    server: str
    directory: str | None = None


class Transport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the gRPC path bears a real network; seconds.

    After `keepalive_s` without a word from the other side gRPC asks for one, and `keepalive_timeout_s` later the
    connection counts as lost. A client has `rejoin_timeout_s` to come back before it is given up. When a connection is
    idle, its clocks are compared every `clock_every_s` (0: never).
    """

    keepalive_s: float = 5.0
    keepalive_timeout_s: float = 5.0
    rejoin_timeout_s: float = 120.0
    clock_every_s: float = 1.0

    @property
    def patience_s(self) -> float:
        """Seconds after which a connection on which nothing comes any more counts as lost."""
        return self.keepalive_s + self.keepalive_timeout_s


class Tls(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One process's part in mutual TLS: the path of its private key on its host, and two certificates as PEM.

    `authority` is the campaign's own, and accepts nobody else. `server_name` is what the server's certificate is for.
    """

    key: str
    certificate: str
    authority: str
    server_name: str


class Stop(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """End a trial once a metric that the app reports centrally is at least this."""

    metric: str
    at_least: float


class Trial(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What server and clients both know of a trial.

    `index` is its place in the plan, `seed` what weights and data order start from, `run_config` goes to the app. Every
    `control_every`-th round is a control round, into which nothing is injected; 0: there are none.
    """

    index: int
    seed: int
    run_config: dict[str, ConfigValue]
    control_every: int = 0

    def is_control(self, number: int) -> bool:
        """Whether round `number`, counted from 1, is a control round."""
        return self.control_every > 0 and number > 0 and number % self.control_every == 0


class ServerTrial(Trial, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The server's share of a trial."""

    rounds: int
    stop: Stop | None = None


class ClientTrial(Trial, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A client's share of a trial; `schedule` numbers the stream of delay draws (trials may share one)."""

    schedule: int
    delay: Delay | None = None
    link: Link | None = None


class Shaping(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a client's link is shaped in all trials, also in those that ask for nothing: they shall differ in that alone.

    `interface`: the inventory's, or empty for that of the route to the server. A link of the kernel is taken off when
    no controller has said a word for `lease_s`.
    """

    layer: Layer
    interface: str = ""
    lease_s: float = LEASE_S


class Job(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every process knows: the campaign's id, its own host's name, the app, and how to talk to each other.

    Its machine is looked at every `sample_every_s` (0: never): processor, interfaces, connections.
    """

    campaign: str
    host: str
    app: AppRef
    transport: Transport = Transport()
    tls: Tls | None = None
    sample_every_s: float = 1.0


class ServerJob(Job, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """For flserver: where to listen, whom to wait for, and the sequence of trials.

    `warmup` comes before the trials: what a process does only once (lazy imports, loading data, first use of every
    kernel) shall not be in the first trial's time. `listen` is `address:port`; port 0 takes a free one, and the
    `listening` event says which. Between two rounds the experiment may be held for pulling logs, every `pull_every_s`
    at most; 0 means never. `probe`: the natural network is measured before the first trial and after the last. Clients
    have `prepare_timeout_s` for making ready for a trial: a first one may have to download a data set.
    """

    listen: str
    clients: tuple[str, ...]
    trials: tuple[ServerTrial, ...]
    warmup: ServerTrial | None = None
    join_timeout_s: float = 120.0
    pull_every_s: float = 0.0
    probe: bool = False
    prepare_timeout_s: float = PREPARE_TIMEOUT_S


class ClientJob(Job, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """For flclient: the server's address as this client sees it, and this client's share of the trials.

    `delay_seed` is the playbook's seed, from which delays are drawn; `node_config` goes to the app.
    """

    server_address: str
    delay_seed: int
    node_config: dict[str, ConfigValue]
    trials: tuple[ClientTrial, ...]
    warmup: ClientTrial | None = None
    connect_timeout_s: float = 60.0
    shaping: Shaping | None = None


JobType = TypeVar("JobType", bound=Job)


def load_job(path: Path, kind: type[JobType]) -> JobType:
    """Read a job file; raises JobError that names the file and the key."""
    try:
        return decoded(msgspec.json.Decoder(kind).decode, path.read_bytes())
    except OSError as error:
        raise JobError(f"{path}: cannot be read: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise JobError(f"{path}: {error}") from error
