"""The playbook: what we *do* to the hosts of a lab. Parsed once into these types; no raw dict travels further."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from deploy.app import ROUNDS, SEED, WITH_DATA, App, resolve
from deploy.convert import convert, unknown
from deploy.errors import InputError
from deploy.inventory import Name
from deploy.trace import distribution, read_in
from deploy.yamlfile import Node, read_yaml
from flcommon.delay import Delay
from flcommon.job import ConfigValue, Stop, Transport

MAX_TRIALS = 10_000
SETTABLE = ("rounds", "delay.probability", "delay.seconds", "data.set", "data.partition", "data.alpha")
"""What a sweep may vary, and `run_config.*`."""

SWITCHES = ("transport.tls",)
"""What may be written as on or off."""

_DEFAULT = Transport()
_SETTINGS = ("rounds", "data", "run_config", "delay", "stop")


class Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which data the clients train on, and how it is split among them; `alpha` goes with dirichlet.

    `path` is a directory on the hosts that already holds the data set; without it the host downloads.
    """

    set: Literal["cifar10", "digits"]
    partition: Literal["full", "iid", "dirichlet"] = "full"
    alpha: Annotated[float, msgspec.Meta(gt=0)] | None = None
    path: str | None = None

    def __post_init__(self) -> None:
        if self.partition == "dirichlet" and self.alpha is None:
            raise ValueError("partition: dirichlet needs alpha, a number above 0 (small: each client has few classes)")
        if self.partition != "dirichlet" and self.alpha is not None:
            raise ValueError(f"alpha goes with partition: dirichlet, not with {self.partition}")


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


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one condition asks for: the playbook with the swept values filled in; without `rounds`, the app says."""

    rounds: Annotated[int, msgspec.Meta(ge=1)] | None = None
    data: Data | None = None
    run_config: dict[str, ConfigValue] = {}
    delay: Delay | None = None
    stop: Stop | None = None


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """One combination of swept values (`values`, by dotted key, as written) and the settings that it gives."""

    values: dict[str, Any]
    settings: Settings


class Playbook(msgspec.Struct, frozen=True, kw_only=True):
    """A validated playbook: `conditions` are all combinations of the sweep, each checked on its own.

    `warmup_rounds` run once before the trials, without delay, and count nowhere. Logs are pulled between two rounds,
    every `pull_every_s` at most (0: only at the end). `tls` is false if the playbook does without. `sweep` is as
    written. `resolved` is the file's content as plain data (traces read in), for the manifest.
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


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The top of a playbook file; the settings are checked once for each condition."""

    playbook: Name
    app: str
    rounds: Any = None
    data: Any = None
    run_config: Any = None
    stop: Any = None
    delay: Any = None
    sweep: dict[str, list[Any]] = {}
    repeats: Annotated[int, msgspec.Meta(ge=1, le=MAX_TRIALS)] = 1
    warmup_rounds: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 1
    pull_every_s: Annotated[float, msgspec.Meta(ge=0, le=86_400)] = 60.0
    order: Literal["shuffled", "listed"] = "shuffled"
    seed: Annotated[int, msgspec.Meta(ge=0)] = 1
    transport: TransportSection = TransportSection()


def load_playbook(path: Path) -> Playbook:
    """Read a playbook file and the traces it names; raises InputError that names file, line and key."""
    written = read_yaml(path, switches=SWITCHES)
    top = read_in(written)
    entry = convert(top, _File)
    app = resolve(top.entries()["app"])
    _check_sweep(top, entry)
    _check_app(top, app)
    return Playbook(
        file=path,
        playbook=entry.playbook,
        app=app,
        seed=entry.seed,
        repeats=entry.repeats,
        warmup_rounds=entry.warmup_rounds,
        pull_every_s=entry.pull_every_s,
        order=entry.order,
        sweep=convert(written, _File).sweep,
        conditions=tuple(_conditions(written, top)),
        resolved=convert(top, dict[str, Any]),
        transport=entry.transport.of_job,
        tls=entry.transport.tls,
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


def _check_sweep(top: Node, entry: _File) -> None:
    """Raise InputError for a sweep that no condition can repair."""
    if "sweep" not in top.entries():
        return
    sweep = top.entries()["sweep"]
    if not entry.sweep:
        raise sweep.error("is empty: give it a key with a list of values, or leave sweep out")
    for name, node in sweep.entries().items():
        _check_key(name, node)
        _check_values(node)
    trials = math.prod(len(values) for values in entry.sweep.values()) * entry.repeats
    if trials > MAX_TRIALS:
        raise sweep.error(f"all combinations and repeats make {trials} trials; at most {MAX_TRIALS} are allowed")


def _check_key(name: str, node: Node) -> None:
    section, _, key = name.partition(".")
    if name not in SETTABLE and not (section == "run_config" and key):
        raise node.error(f"cannot be swept{unknown(name, [*SETTABLE, 'run_config.*'])}")


def _check_values(node: Node) -> None:
    items = node.items()
    if not items:
        raise node.error("is empty: give at least one value")
    seen: dict[str, Node] = {}
    for item in items:
        first = seen.setdefault(_token(item), item)
        if first is not item:
            raise item.error(f"{item.shown()} is in the list twice: first as {first.key}")


def _token(node: Node) -> str:
    """Return a text that is the same for equal values; 3 and 3.0 are equal, 1 and true are not."""
    number = isinstance(node.value, int) and not isinstance(node.value, bool)
    return repr(float(str(node.value)) if number else node.plain())


def _conditions(written: Node, top: Node) -> list[Condition]:
    """Return all combinations, in the order in which the sweep is written; its last key varies fastest."""
    base = top.having({key: node for key in _SETTINGS if (node := top.get(key)) is not None})
    sweep = top.get("sweep")
    lists = {key: node.items() for key, node in (sweep.entries() if sweep else {}).items()}
    _check_replaced(base, {key: items[0] for key, items in lists.items()})
    names = written.get("sweep")
    shown = {key: node.items() for key, node in (names.entries() if names else {}).items()}
    return [
        Condition(
            values={key: shown[key][i].plain() for key, i in zip(lists, choice, strict=True)},
            settings=_settings(base, {key: lists[key][i] for key, i in zip(lists, choice, strict=True)}),
        )
        for choice in product(*(range(len(items)) for items in lists.values()))
    ]


def _check_replaced(base: Node, chosen: dict[str, Node]) -> None:
    """Raise InputError for a wrong value in a section, though the sweep replaces it in every condition.

    Partition and alpha are left out: whether they fit each other depends on both.
    """

    def is_replaced(key: str) -> bool:
        section, _, name = key.partition(".")
        there = base.get(section)
        return there is not None and (not name or name in there.entries())

    pair = ("data.partition", "data.alpha")
    _settings(base, {key: node for key, node in chosen.items() if key in pair or not is_replaced(key)})


def _settings(base: Node, chosen: dict[str, Node]) -> Settings:
    """Return the settings with the chosen values filled in; errors point at the values that cause them."""
    top = base
    for key, node in chosen.items():
        section, _, name = key.partition(".")
        top = top.having({**top.entries(), section: _filled(top.get(section), name, node)})
    delay, data = top.get("delay"), top.get("data")
    if delay is not None:
        top = top.having({**top.entries(), "delay": _complete(delay)})
    if data is not None:
        top = top.having({**top.entries(), "data": _without_idle_alpha(data, chosen)})
    return convert(top, Settings)


def _filled(section: Node | None, name: str, value: Node) -> Node:
    """Return a section with `value` for the entry `name`, at the value's place: what breaks now, the value broke."""
    if not name:
        return value
    entries = section.entries() if section else {}
    return value.having({**entries, name: value})


def _complete(delay: Node) -> Node:
    """Return the delay with its seconds as a distribution; raises InputError for one that lacks a part."""
    for name in ("probability", "seconds"):
        if name not in delay.entries():
            raise delay.error(f"the delay has no {name}: give it in the section `delay`, or sweep delay.{name}")
    return delay.having({**delay.entries(), "seconds": distribution(delay.entries()["seconds"])})


def _without_idle_alpha(data: Node, chosen: dict[str, Node]) -> Node:
    """Drop the section's alpha where a swept partition leaves it without a use: iid against dirichlet is one sweep."""
    partition = chosen.get("data.partition")
    idle = partition is not None and partition.value != "dirichlet" and "data.alpha" not in chosen
    return data.having({key: node for key, node in data.entries().items() if not (idle and key == "alpha")})
