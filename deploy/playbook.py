"""The playbook: what we *do* to the hosts of a lab. Parsed once into these types; no raw dict travels further."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from deploy.app import ROUNDS, SEED, WITH_DATA, App, resolve
from deploy.convert import convert, unknown
from deploy.errors import InputError
from deploy.inventory import Name
from deploy.links import Rule, rules
from deploy.linktrace import read_in_links
from deploy.settings import Condition, conditions
from deploy.sweep import MAX_TRIALS, check_sweep
from deploy.trace import read_in
from deploy.yamlfile import Node, read_yaml
from flcommon.job import Transport

SWITCHES = ("transport.tls", "probe")
"""What may be written as on or off."""

Control = Annotated[
    str,
    msgspec.Meta(
        pattern=r"(?#text: every K rounds, with K from 2 to 9999)^every ([2-9]|[1-9][0-9]{1,3}) rounds\Z",
    ),
]
LEAST_SAMPLE_S = 0.1

_DEFAULT = Transport()


class TransportSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How server and clients talk: `flcommon.job.Transport`, and whether the connection is mutual TLS."""

    tls: bool = True
    keepalive_s: Annotated[float, msgspec.Meta(ge=0.1, le=3600)] = _DEFAULT.keepalive_s
    keepalive_timeout_s: Annotated[float, msgspec.Meta(ge=0.1, le=3600)] = _DEFAULT.keepalive_timeout_s
    rejoin_timeout_s: Annotated[float, msgspec.Meta(ge=0, le=604_800)] = _DEFAULT.rejoin_timeout_s
    clock_every_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = _DEFAULT.clock_every_s

    @property
    def of_job(self) -> Transport:
        """What of it stands in every job as it is; a job's TLS is its credentials."""
        return Transport(
            keepalive_s=self.keepalive_s,
            keepalive_timeout_s=self.keepalive_timeout_s,
            rejoin_timeout_s=self.rejoin_timeout_s,
            clock_every_s=self.clock_every_s,
        )


class Playbook(msgspec.Struct, frozen=True, kw_only=True):
    """A validated playbook: `conditions` are all combinations of the sweep, each checked on its own.

    `warmup_rounds` run once before the trials, without delay, and count nowhere. Logs are pulled between two rounds,
    every `pull_every_s` at most (0: only at the end). `tls` is false if the playbook does without. `sweep` is as
    written. `resolved` is the file's content as plain data (traces read in), for the manifest. `hosts` are the rules
    that give some clients another link; into every `control_every`-th round nothing is injected (0: there are none).
    `probe`: measure the network before the first trial and after the last; machines are sampled every
    `sample_every_s` (0: never).
    """

    file: Path
    playbook: Name
    app: App
    seed: int
    repeats: int
    warmup_rounds: int
    pull_every_s: float
    order: Literal["shuffled", "listed"]
    sweep: dict[str, list[Any]]
    conditions: tuple[Condition, ...]
    resolved: dict[str, Any]
    transport: Transport = _DEFAULT
    tls: bool = True
    hosts: tuple[Rule, ...] = ()
    control_every: int = 0
    probe: bool = True
    sample_every_s: float = 1.0


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The top of a playbook file; the settings are checked once for each condition."""

    playbook: Name
    app: str
    rounds: Any = None
    data: Any = None
    run_config: Any = None
    stop: Any = None
    delay: Any = None
    link: Any = None
    hosts: Any = None
    control: Control | None = None
    sweep: dict[str, list[Any]] = {}
    repeats: Annotated[int, msgspec.Meta(ge=1, le=MAX_TRIALS)] = 1
    warmup_rounds: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 1
    pull_every_s: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 60.0
    order: Literal["shuffled", "listed"] = "shuffled"
    seed: Annotated[int, msgspec.Meta(ge=0)] = 1
    transport: TransportSection = TransportSection()
    probe: bool = True
    sample_every_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 1.0


def load_playbook(path: Path) -> Playbook:
    """Read a playbook file and the traces it names; raises InputError that names file, line and key."""
    written = read_yaml(path, switches=SWITCHES)
    top = read_in_links(read_in(written))
    entry = convert(top, _File)
    app = resolve(top.entries()["app"])
    check_sweep(top, entry.repeats)
    _check_app(top, app)
    book = Playbook(
        file=path,
        playbook=entry.playbook,
        app=app,
        seed=entry.seed,
        repeats=entry.repeats,
        warmup_rounds=entry.warmup_rounds,
        pull_every_s=entry.pull_every_s,
        order=entry.order,
        sweep=convert(written, _File).sweep,
        conditions=tuple(conditions(written, top)),
        resolved=convert(top, dict[str, Any]),
        transport=entry.transport.of_job,
        tls=entry.transport.tls,
        hosts=rules(hosts) if (hosts := top.get("hosts")) is not None else (),
        control_every=int(entry.control.split()[1]) if entry.control else 0,
        probe=entry.probe,
        sample_every_s=entry.sample_every_s,
    )
    _check_rounds(top, book)
    _check_patience(top, book)
    return book


def _check_rounds(top: Node, book: Playbook) -> None:
    """Raise InputError for control rounds that cannot be, and for samples that would measure themselves."""
    every, control = book.control_every, top.get("control")
    if 0 < book.sample_every_s < LEAST_SAMPLE_S:
        raise top.entries()["sample_every_s"].error(
            f"must be 0 (never) or {LEAST_SAMPLE_S:g} and more: so many samples would disturb what they measure"
        )
    if control is None:
        return
    if not book.hosts and all(one.settings.delay is None and one.settings.link is None for one in book.conditions):
        raise control.error("control rounds have nothing to do without: the playbook injects no delay and no link")
    fewest = min((one.settings.rounds for one in book.conditions if one.settings.rounds), default=every)
    if fewest < every:
        raise control.error(f"a trial of {fewest} rounds has no control round: raise `rounds`, or leave control out")


def _check_patience(top: Node, book: Playbook) -> None:
    """Raise InputError for a link whose answers come after the connection has been given up."""
    limit_s = book.transport.keepalive_timeout_s
    sweep = top.get("sweep")
    swept = [node for key, node in (sweep.entries() if sweep else {}).items() if key.startswith("link.")]
    asked = [
        (one.settings.link, swept[0] if swept else top.entries()["link"])
        for one in book.conditions
        if one.settings.link
    ]
    for link, node in (*asked, *((rule.asked, rule.place.entries()["link"]) for rule in book.hosts)):
        if link.longest_round_trip_s >= limit_s:
            raise node.error(
                f"a round trip would take up to {link.longest_round_trip_s:g} s, and a connection without an answer"
                f" for {limit_s:g} s counts as lost: shorten the delay, or raise transport.keepalive_timeout_s"
            )


def _check_app(top: Node, app: App) -> None:
    """Raise InputError for what this app does not understand, in the sections and in the sweep."""
    for key, node in _asked(top):
        section, _, name = key.partition(".")
        if section == "data" and app.name != WITH_DATA:
            raise node.error(f"is for app: {WITH_DATA} alone; what another app trains on is in its own run_config")
        if section == "rounds" and not app.takes_rounds:
            raise node.error(
                f"the app's own config has no {ROUNDS} to set: leave it out, or add the key in {app.config}"
            )
        if section == "run_config":
            _check_config(app, name, node)
    if top.get("rounds") is None and "rounds" not in dict(_asked(top)) and app.directory is None:
        raise InputError(top.file, "is missing", line=top.line, key="rounds")


def _asked(top: Node) -> list[tuple[str, Node]]:
    """Return the settings of a playbook by their dotted keys: `run_config` key by key, then what is swept."""
    run_config, sweep = top.get("run_config"), top.get("sweep")
    sections = [(key, node) for key in ("rounds", "data") if (node := top.get(key)) is not None]
    keys = [(f"run_config.{name}", node) for name, node in (run_config.entries() if run_config else {}).items()]
    return [*sections, *keys, *(sweep.entries() if sweep else {}).items()]


def _check_config(app: App, name: str, node: Node) -> None:
    """Raise InputError for a key of the app's run_config that the toolkit sets, or that the app does not know."""
    twins = {SEED: "seed"} if app.takes_seed else {}
    twins.update({ROUNDS: "rounds"} if app.takes_rounds else {})
    if name in twins or (name.startswith("data.") and app.name == WITH_DATA):
        twin = twins.get(name, name)
        raise node.error(f"the same thing is said twice: the app's {name!r} is set from the playbook's `{twin}`")
    if app.defaults is not None and name not in app.defaults:
        raise node.error(f"the app has no such key{unknown(name, list(app.defaults))} (in {app.config})")
