"""The runs that are compared: read, given short names, and searched for whatever else differs between them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from deploy.analysis.reading.dataset import read_dataset
from deploy.analysis.statistics.conditions import Analysis, analyse
from deploy.errors import InputError
from deploy.labels import UNKNOWN, value_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FACTS = {
    "cpu": "processor",
    "cpus": "cores",
    "memory_mb": "memory, MB",
    "machine": "architecture",
    "platform": "system",
}
"""Facts of a host that may explain a difference."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run: its directory, a name that tells it from the others, and its analysis."""

    directory: Path
    name: str
    analysis: Analysis


class Differing(msgspec.Struct, frozen=True):
    """Something that is not the same in all runs, and what it is in each."""

    what: str
    values: tuple[str, ...]


def read_runs(directories: Sequence[Path]) -> tuple[Run, ...]:
    """Read and analyse the runs, the reference first.

    Raises InputError for fewer than two, for one that is named twice, and for what is no run directory.
    """
    if not directories:
        raise InputError("deploy compare", "name at least two run directories")
    if len(directories) == 1:
        raise InputError(directories[0], "one run has nothing to be compared with: name at least two run directories")
    _refuse_twins(directories, [str(each.resolve()) for each in directories])
    found = [analyse(read_dataset(each)) for each in directories]
    _refuse_twins(directories, [each.dataset.manifest.campaign for each in found])
    names = _names(directories, found)
    return tuple(
        Run(directory=each, name=name, analysis=analysis)
        for each, name, analysis in zip(directories, names, found, strict=True)
    )


def _refuse_twins(directories: Sequence[Path], identities: Sequence[str]) -> None:
    first: dict[str, Path] = {}
    for each, identity in zip(directories, identities, strict=True):
        if identity in first:
            raise InputError(each, f"this is the same run as {first[identity]}: name different ones")
        first[identity] = each


def _names(directories: Sequence[Path], found: Sequence[Analysis]) -> list[str]:
    """Return what tells the runs apart in the fewest words: lab, playbook, app, one key of it, else the directory."""
    manifests = [each.dataset.manifest for each in found]
    flat = [_flat(each.playbook_resolved) for each in manifests]
    keys = [key for key in dict.fromkeys(key for each in flat for key in each) if len({f.get(key) for f in flat}) > 1]
    tries = [[each.lab for each in manifests], [each.playbook for each in manifests], [each.app for each in manifests]]
    if len(keys) == 1:
        tries.append([_setting(keys[0], each.get(keys[0], UNKNOWN)) for each in flat])
    tries.append([each.resolve().name for each in directories])
    distinct = next((names for names in tries if len(set(names)) == len(found)), None)
    return distinct or [f"{each.resolve().name} ({place})" for place, each in enumerate(directories, 1)]


def _setting(key: str, value: str) -> str:
    """Return what a run is called after the one key in which it differs: a word speaks for itself, a number not."""
    return value if value.isidentifier() else f"{key.removeprefix('run_config.')} = {value}"


def differing(runs: Sequence[Run]) -> tuple[Differing, ...]:
    """Return what is not the same in all runs, as far as their manifests and logs tell."""
    told = [dict(_told(run)) for run in runs]
    keys = dict.fromkeys(key for each in told for key in each)
    rows = (Differing(key, tuple(each.get(key, UNKNOWN) for each in told)) for key in keys)
    return tuple(row for row in rows if len(set(row.values)) > 1)


def _told(run: Run) -> Iterator[tuple[str, str]]:
    manifest = run.analysis.dataset.manifest
    yield from (("lab", manifest.lab), ("playbook", manifest.playbook), ("app", manifest.app))
    yield "code", manifest.code_digest
    yield from (
        (key, value) for key, value in _flat(manifest.playbook_resolved).items() if key not in {"playbook", "app"}
    )
    yield "clients", ", ".join(manifest.clients)
    yield "clients in a round", str(run.analysis.clients)
    yield "TLS", "yes" if manifest.tls else "no"
    yield "links by", _counted([each.layer for each in manifest.shaping.values()])
    yield from ((f"controller: {name}", version) for name, version in manifest.versions.items())
    hosts = run.analysis.dataset.versions.values()
    for package in dict.fromkeys(name for versions in hosts for name in versions):
        yield f"hosts: {package}", _counted([versions.get(package, UNKNOWN) for versions in hosts])
    for fact, words in FACTS.items():
        values = [value_text(record.facts[fact]) for record in manifest.hosts.values() if fact in record.facts]
        yield f"hosts: {words}", _counted(values)


def _flat(mapping: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return a nested mapping's values as text, by dotted keys."""
    found: dict[str, str] = {}
    for key, value in mapping.items():
        nested = isinstance(value, dict) and value
        found |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value_text(value)}
    return found


def _counted(values: Sequence[str]) -> str:
    """Return the values, each once, with how many have it where they differ; the order does not matter."""
    counts = sorted(Counter(values).items())
    if len(counts) == 1:
        return counts[0][0]
    return ", ".join(f"{value} ({count})" for value, count in counts) or UNKNOWN
