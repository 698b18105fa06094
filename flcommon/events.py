"""The vocabulary of the timing logs: one struct for each thing that can happen, and the envelope around it.

A line of an events.jsonl file is one flat JSON object: the envelope (`Stamp`), the event's `name`, and its fields.
Durations come from `mono_ns` of one process; `wall_ns` is what a later analysis puts on one clock. Numbers carry unit
and direction in their name. `trial` counts from 0 in the order of the plan (not of execution), `round` from 1;
round 0 is what a trial does before its first round (the evaluation of the initial model). Trial -1 is the warm-up,
which is logged like a trial and counts as none.

Who says what: *server* — written by flserver; *client* — by flclient; *both*.
"""

from __future__ import annotations

from typing import TypedDict

import msgspec

from flcommon.link import Layer, Way

SCHEMA_VERSION = 1


class Stamp(msgspec.Struct, frozen=True):
    """The envelope of every event: schema version, position in its file, and two clocks."""

    v: int
    seq: int
    """Counts from 0 without gaps: a missing number is a lost event."""
    mono_ns: int
    """`time.monotonic_ns()`: for durations within one process."""
    wall_ns: int
    """`time.time_ns()`: the host's idea of the time of day."""


class Event(msgspec.Struct, frozen=True, tag_field="name", kw_only=True):
    """Base of all events; the tag is the event's name in the log."""


class OfTrial(Event, frozen=True, kw_only=True):
    """An event that belongs to a trial."""

    trial: int


class OfRound(OfTrial, frozen=True, kw_only=True):
    """An event that belongs to a round of a trial."""

    round: int


class OfMessage(OfRound, frozen=True, kw_only=True):
    """An event in the life of one Flower message; `message` is the instruction's id, `kind` its message type."""

    message: str
    client: str
    kind: str


class Place(TypedDict):
    """The fields of OfMessage, for `Event(**place, …)`: whose message it is, in which round of which trial."""

    trial: int
    round: int
    message: str
    client: str
    kind: str


def is_training(kind: str) -> bool:
    """Whether a Flower message type asks for training: `train`, or `train.` and an action's name."""
    return kind.partition(".")[0] == "train"


class JobAccepted(Event, frozen=True, kw_only=True, tag="job"):
    """(both) First line of every file: who writes it, and the job without its secrets."""

    role: str
    host: str
    campaign: str
    pid: int
    versions: dict[str, str]
    job: msgspec.Raw


class Listening(Event, frozen=True, kw_only=True, tag="listening"):
    """(server) Clients can connect to `address` from now on."""

    address: str


class Ready(Event, frozen=True, kw_only=True, tag="ready"):
    """(both) The app is imported; `after_s` since the process started, `app_import_s` of it for the app."""

    after_s: float
    app_import_s: float


class ClientJoined(Event, frozen=True, kw_only=True, tag="client-joined"):
    """(server) A client's stream is open."""

    client: str
    node_id: int
    peer: str


class ClientLost(Event, frozen=True, kw_only=True, tag="client-lost"):
    """(server) A client's connection broke, or stopped answering; it has the job's `rejoin_timeout_s` to come back."""

    client: str
    reason: str


class ClientBack(Event, frozen=True, kw_only=True, tag="client-back"):
    """(server) A client that was lost is connected again, `after_s` later; `restarted`: by a new process of it."""

    client: str
    peer: str
    after_s: float
    restarted: bool


class ClientGivenUp(Event, frozen=True, kw_only=True, tag="client-given-up"):
    """(server) A client is no longer waited for: what it was asked is answered by Flower's error NODE_UNAVAILABLE."""

    client: str
    reason: str


class Refused(Event, frozen=True, kw_only=True, tag="refused"):
    """(server) Somebody may not join; `count` of the same kind since the last such event. `peer` where gRPC tells."""

    reason: str
    peer: str | None = None
    count: int = 1


class ConnectionLost(Event, frozen=True, kw_only=True, tag="connection-lost"):
    """(client) The connection to the server broke, or the server stopped answering."""

    reason: str


class ConnectionBack(Event, frozen=True, kw_only=True, tag="connection-back"):
    """(client) The server is reached again, `after_s` after the loss, by the attempt of this number (from 1)."""

    after_s: float
    attempts: int


class ClientLeft(Event, frozen=True, kw_only=True, tag="client-left"):
    """(server) A client's stream has ended, after the campaign's end; before that it is lost."""

    client: str
    reason: str


class CampaignStarted(Event, frozen=True, kw_only=True, tag="campaign-started"):
    """(server) All clients are there and ready."""

    trials: int
    clients: int


class TrialOpened(OfTrial, frozen=True, kw_only=True, tag="trial-opened"):
    """(both) Work on a trial begins: fresh state is made, on the server and (told by it) on every client."""


class TrialPrepared(OfTrial, frozen=True, kw_only=True, tag="trial-prepared"):
    """(both) Fresh state is ready; the server's is written when all clients have said theirs."""


class RoundStarted(OfRound, frozen=True, kw_only=True, tag="round-started"):
    """(server) The first instruction of a round is handed to the grid. A round lasts until the next one starts.

    `control`: nothing is injected into it.
    """

    control: bool = False


class PhaseEnded(OfRound, frozen=True, kw_only=True, tag="phase-ended"):
    """(server) A part of the ServerApp's own work is over: configure, aggregate or evaluate; `duration_s` long."""

    phase: str
    duration_s: float


class MessageSent(OfMessage, frozen=True, kw_only=True, tag="message-sent"):
    """(server) The first byte of an instruction was offered to gRPC; again after each new connection that it took.

    Encoding took `encode_s`, then it waited `queue_s` for its turn; `send_s` after its first byte gRPC had taken the
    last. `size_bytes` is the message, `wire_bytes` all that was offered for it on this connection.
    """

    size_bytes: int
    wire_bytes: int
    encode_s: float
    queue_s: float
    send_s: float


class ReplyReceived(OfMessage, frozen=True, kw_only=True, tag="reply-received"):
    """(server) The complete reply of `size_bytes` is here, `receive_s` after its first byte; `decode_s` comes on top.

    `error` holds Flower's error, if it carries one.
    """

    size_bytes: int
    wire_bytes: int
    receive_s: float
    decode_s: float
    error: str | None = None


class MessageReceived(OfMessage, frozen=True, kw_only=True, tag="message-received"):
    """(client) A complete instruction of `size_bytes` is here, `receive_s` after its first byte.

    Then it waited `queue_s` for the app to be free, and `decode_s` is what decoding took.
    """

    size_bytes: int
    wire_bytes: int
    receive_s: float
    queue_s: float
    decode_s: float


class ComputeStarted(OfMessage, frozen=True, kw_only=True, tag="compute-started"):
    """(client) The message is decoded and the app is called."""


class ComputeEnded(OfMessage, frozen=True, kw_only=True, tag="compute-ended"):
    """(client) The app has returned; `cpu_s` is the process's CPU time in between."""

    cpu_s: float


class AppRaised(OfMessage, frozen=True, kw_only=True, tag="app-raised"):
    """(client) The app has raised instead of returning; the server gets Flower's error, the traceback is on stderr."""

    error: str


class Delayed(OfMessage, frozen=True, kw_only=True, tag="delayed"):
    """(client) The injected delay is over: what was drawn, and how long it really took. Written also for 0 s."""

    requested_s: float
    measured_s: float


class ReplySent(OfMessage, frozen=True, kw_only=True, tag="reply-sent"):
    """(client) The first byte of a reply was offered to gRPC; fields as in `message-sent`."""

    size_bytes: int
    wire_bytes: int
    encode_s: float
    queue_s: float
    send_s: float


class Redelivered(OfMessage, frozen=True, kw_only=True, tag="redelivered"):
    """(both) After a new connection, a message (server: instruction; client: reply) is sent on from byte `offset`."""

    offset: int
    size_bytes: int


class Transferring(OfMessage, frozen=True, kw_only=True, tag="transferring"):
    """(both) A long transfer goes on: so much of a message has arrived; every few seconds."""

    received_bytes: int
    size_bytes: int


class ClockExchange(Event, frozen=True, kw_only=True, tag="clock-exchange"):
    """(server) Four moments (RFC 5905, section 8), each on two clocks; the fourth, the server's receipt, is the stamp.

    The server sent, the client received, the client sent. `message` is the instruction beside which the exchange was
    made, None for one on an idle connection.
    """

    client: str
    server_sent_mono_ns: int
    server_sent_wall_ns: int
    client_received_mono_ns: int
    client_received_wall_ns: int
    client_sent_mono_ns: int
    client_sent_wall_ns: int
    message: str | None = None


class Tcp(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the kernel says of one TCP connection (tcp(7), TCP_INFO): None where it does not say.

    Times of a connection that is idle are old. Counters run from the connection's start. The limited times are those in
    which data was there and could not be sent: for the peer's window, or this side's buffer. `delivery_rate_mbit` is
    the kernel's own latest estimate of goodput. With the congestion control bbr, retransmissions are no sign of
    congestion.
    """

    rtt_ms: float | None = None
    rtt_var_ms: float | None = None
    rtt_min_ms: float | None = None
    retransmitted: int | None = None
    lost: int | None = None
    delivery_rate_mbit: float | None = None
    sent_bytes: int | None = None
    acked_bytes: int | None = None
    received_bytes: int | None = None
    busy_s: float | None = None
    window_limited_s: float | None = None
    buffer_limited_s: float | None = None
    congestion_window: int | None = None
    segment_bytes: int | None = None
    congestion: str = ""


class TcpSampled(Event, frozen=True, kw_only=True, tag="tcp-sampled"):
    """(both) The connection between this client and the server, as the kernel of this process's host sees it.

    `message`: beside which message it was taken, None at other times. `relay`: it is the relay's connection, beyond
    which is the network; the process's own one ends on its own host.
    """

    client: str
    tcp: Tcp
    message: str | None = None
    relay: bool = False


class Interface(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A network interface's counters since boot; of a wireless one also how well it hears (proc(5), iw(8))."""

    received_bytes: int
    sent_bytes: int
    received_packets: int
    sent_packets: int
    errors: int
    dropped: int
    quality: float | None = None
    signal_dbm: float | None = None
    noise_dbm: float | None = None
    bit_rate_mbit: float | None = None
    retries: int | None = None


class HostSampled(Event, frozen=True, kw_only=True, tag="host-sampled"):
    """(both) How the machine is doing; None or empty: it does not tell.

    `cpu_pct` is the use of all processors since the last sample, 100 when all are busy, `own_cpu_pct` this process's
    share in the same measure; `steal_pct` what a hypervisor took. `throttled` holds the bits of a Raspberry Pi's
    firmware.
    """

    cpu_pct: float | None = None
    own_cpu_pct: float | None = None
    steal_pct: float | None = None
    load_1min: float | None = None
    memory_free_mb: int | None = None
    frequency_mhz: float | None = None
    temperature_c: float | None = None
    throttled: int | None = None
    interfaces: dict[str, Interface] = {}


class Probed(Event, frozen=True, kw_only=True, tag="probed"):
    """(client) An active look at the path to the server, with nothing injected.

    `stage` is before (the first trial), after (the last). `rtt_ms` holds every round trip of an empty message, in the
    order in which they were made; the rates are goodput for messages of `size_bytes`, None if that was not measured.
    """

    client: str
    stage: str
    rtt_ms: tuple[float, ...]
    size_bytes: int
    up_mbit: float | None = None
    down_mbit: float | None = None


class LinkReady(Event, frozen=True, kw_only=True, tag="link-ready"):
    """(client) What shapes this client's link is there: by which layer, and `about` it in words."""

    client: str
    layer: Layer
    about: dict[str, str]


class LinkSet(OfRound, frozen=True, kw_only=True, tag="link-set"):
    """(client) The link is so from this moment on: what was requested, and what was read back from who applies it.

    `round` is the latest that the client has seen, 0 before the first. A direction that is natural is None; both are in
    control rounds, while a proof looks at the natural link, and when a trial is over.
    """

    client: str
    layer: Layer
    state: str
    up: Way | None
    down: Way | None
    applied_up: dict[str, float | str] | None = None
    applied_down: dict[str, float | str] | None = None


class LinkProved(OfTrial, frozen=True, kw_only=True, tag="link-proved"):
    """(client) A link was measured right after it was applied, against the natural one right before.

    The injected one-way delays follow from differences in which the clocks' offset cancels. `tolerance_ms` is what the
    proof was held to, `up_mbit` and `down_mbit` goodput, `attempts` how often it was measured. A delay is None where no
    ping came back.
    """

    client: str
    layer: Layer
    requested_up_ms: float
    measured_up_ms: float | None
    requested_down_ms: float
    measured_down_ms: float | None
    tolerance_ms: float
    attempts: int
    requested_up_mbit: float | None = None
    up_mbit: float | None = None
    requested_down_mbit: float | None = None
    down_mbit: float | None = None


class LinkUsed(OfMessage, frozen=True, kw_only=True, tag="link-used"):
    """(client) What the link's layer did while this message went by; fields as in `flclient.link.protocol.Used`."""

    layer: Layer
    up: bool
    size_bytes: int | None = None
    packets: int | None = None
    dropped: int | None = None
    overflowed: int | None = None
    held_mean_ms: float | None = None
    held_max_ms: float | None = None
    stalled_ms: float | None = None


class LinkLifted(Event, frozen=True, kw_only=True, tag="link-lifted"):
    """(client) Control was lost: the link was taken off, and the client does nothing until it is back."""

    client: str
    reason: str


class LinkRestored(Event, frozen=True, kw_only=True, tag="link-restored"):
    """(client) Control is back, and the link is as it was before `after_s`: rounds in between are no measurement."""

    client: str
    after_s: float


class ReplyMetrics(OfMessage, frozen=True, kw_only=True, tag="reply-metrics"):
    """(server) The scalar metrics in one client's reply, by record and name: `metrics.train-loss`."""

    values: dict[str, float]


class Metrics(OfRound, frozen=True, kw_only=True, tag="metrics"):
    """(server) What the app itself reported: `source` is central (the ServerApp), train or evaluate (aggregated).

    `not_finite` names the values that JSON cannot hold, in words: nan, inf, -inf.
    """

    source: str
    values: dict[str, float]
    not_finite: dict[str, str] = {}


class RoundEnded(OfRound, frozen=True, kw_only=True, tag="round-ended"):
    """(server) A round is over, `duration_s` after it started, evaluation included."""

    duration_s: float


class Paused(OfRound, frozen=True, kw_only=True, tag="paused"):
    """(server) Between this round and the next, the experiment is held so that logs can be pulled; `number` from 1."""

    number: int


class Resumed(OfRound, frozen=True, kw_only=True, tag="resumed"):
    """(server) The pause is over after `duration_s`, which count in no round and no trial; `by` says who ended it.

    `by` is controller, or unwatched (it went away), or timeout.
    """

    number: int
    duration_s: float
    by: str


class Switched(OfRound, frozen=True, kw_only=True, tag="switched"):
    """(server) Before this round, all clients were told whether to inject; it took `duration_s`, between two rounds."""

    inject: bool
    duration_s: float


class TargetReached(OfRound, frozen=True, kw_only=True, tag="target-reached"):
    """(server) The playbook's `stop` condition holds: the trial ends here."""

    metric: str
    value: float


class TrialEnded(OfTrial, frozen=True, kw_only=True, tag="trial-ended"):
    """Written when a trial is over (server: first round's start to last round's end; client: told by the server)."""

    ok: bool
    rounds: int
    duration_s: float


class CampaignEnded(Event, frozen=True, kw_only=True, tag="campaign-ended"):
    """(server) No trial is left, or the campaign cannot go on."""

    ok: bool
    trials_done: int


class Failed(Event, frozen=True, kw_only=True, tag="failed"):
    """(both) Something went wrong: at which step, in one sentence for a person. The traceback is on stderr."""

    step: str
    reason: str


AnyEvent = (
    JobAccepted
    | Listening
    | Ready
    | ClientJoined
    | ClientLeft
    | ClientLost
    | ClientBack
    | ClientGivenUp
    | Refused
    | ConnectionLost
    | ConnectionBack
    | CampaignStarted
    | TrialOpened
    | TrialPrepared
    | RoundStarted
    | PhaseEnded
    | MessageSent
    | ReplyReceived
    | MessageReceived
    | ComputeStarted
    | ComputeEnded
    | AppRaised
    | Delayed
    | ReplySent
    | Redelivered
    | Transferring
    | ClockExchange
    | TcpSampled
    | HostSampled
    | Probed
    | LinkReady
    | LinkSet
    | LinkProved
    | LinkUsed
    | LinkLifted
    | LinkRestored
    | ReplyMetrics
    | Metrics
    | RoundEnded
    | Paused
    | Resumed
    | Switched
    | TargetReached
    | TrialEnded
    | CampaignEnded
    | Failed
)
