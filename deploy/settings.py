"""What each condition of a playbook asks for: the sections with the swept values filled in, checked one by one."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from deploy import links
from deploy.convert import convert
from deploy.links import Asked
from deploy.trace import distribution
from flcommon.delay import Delay
from flcommon.job import ConfigValue, Stop

if TYPE_CHECKING:
    from deploy.yamlfile import Node

_SECTIONS = ("rounds", "data", "run_config", "delay", "link", "stop")


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


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one condition asks for: the playbook with the swept values filled in; without `rounds`, the app says.

    `link` is that of the clients for which no rule of `hosts` says another.
    """

    rounds: Annotated[int, msgspec.Meta(ge=1)] | None = None
    data: Data | None = None
    run_config: dict[str, ConfigValue] = {}
    delay: Delay | None = None
    link: Asked | None = None
    stop: Stop | None = None


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """One combination of swept values (`values`, by dotted key, as written) and the settings that it gives."""

    values: dict[str, Any]
    settings: Settings


def conditions(written: Node, top: Node) -> list[Condition]:
    """Return all combinations, in the order in which the sweep is written; its last key varies fastest."""
    base = top.having({key: node for key in _SECTIONS if (node := top.get(key)) is not None})
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

    What must fit together is left out, as that depends on all of it: partition and alpha, the keys of a link.
    """

    def is_replaced(key: str) -> bool:
        section, _, name = key.partition(".")
        there = base.get(section)
        return there is not None and (not name or name in there.entries())

    together = ("data.partition", "data.alpha", *links.SETTABLE)
    _settings(base, {key: node for key, node in chosen.items() if key in together or not is_replaced(key)})


def _settings(base: Node, chosen: dict[str, Node]) -> Settings:
    """Return the settings with the chosen values filled in; errors point at the values that cause them."""
    top = base
    for key, node in chosen.items():
        section, _, name = key.partition(".")
        path = name.split(".") if section == "link" else [name] if name else []
        top = top.having({**top.entries(), section: _filled(top.get(section), path, node)})
    delay, data, link = top.get("delay"), top.get("data"), top.get("link")
    if delay is not None:
        top = top.having({**top.entries(), "delay": _complete(delay)})
    if data is not None:
        top = top.having({**top.entries(), "data": _without_idle_alpha(data, chosen)})
    settings = convert(top.having({key: node for key, node in top.entries().items() if key != "link"}), Settings)
    return settings if link is None else msgspec.structs.replace(settings, link=links.asked(link))


def _filled(section: Node | None, path: list[str], value: Node) -> Node:
    """Return a section with `value` at `path`; it is at the value's place: what breaks now, the value broke."""
    if not path:
        return value
    name, *rest = path
    entries = section.entries() if section else {}
    return value.having({**entries, name: _filled(entries.get(name), rest, value)})


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
