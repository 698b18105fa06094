"""Recorded delays: reads the trace files that a playbook names into the playbook, so that no host needs them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from deploy.convert import unknown
from deploy.errors import InputError
from deploy.yamlfile import Node, read_text
from flcommon.delay import LONGEST_S

_NUMBER = re.compile(r"([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")


def read_in(playbook: Node) -> Node:
    """Return the playbook with the traces of `delay.seconds` read in, also those of the sweep.

    Raises InputError that names the playbook's line, or the trace file's.
    """
    entries = dict(playbook.entries())
    delay, sweep = playbook.get("delay"), playbook.get("sweep")
    if delay is not None and "seconds" in delay.entries():
        entries["delay"] = delay.having({**delay.entries(), "seconds": _resolved(delay.entries()["seconds"])})
    if sweep is not None and "delay.seconds" in sweep.entries():
        values = sweep.entries()["delay.seconds"]
        values = replace(values, value=[_resolved(item) for item in values.items()])
        entries["sweep"] = sweep.having({**sweep.entries(), "delay.seconds": values})
    return playbook.having(entries)


def distribution(seconds: Node) -> Node:
    """Return a value of `delay.seconds` as a distribution: a bare number means a constant."""
    if isinstance(seconds.value, int | float) and not isinstance(seconds.value, bool):
        return seconds.having({"distribution": replace(seconds, value="constant"), "seconds": seconds})
    if not isinstance(seconds.value, dict):
        raise seconds.error(
            f"must be a number of seconds or a mapping with the key distribution, not {seconds.shown()}"
        )
    return seconds


def parse_trace(file: Path, text: str) -> list[Node]:
    """Return the delays in seconds of a trace: one number a line; blank lines and `#` comments are skipped."""
    values = []
    for number, line in enumerate(text.split("\n"), start=1):
        written = line.partition("#")[0].strip()
        if not written:
            continue
        node = Node(file, number, "", written)
        if not _NUMBER.fullmatch(written) or not float(written) <= LONGEST_S:
            raise node.error(f"must be a number of seconds from 0 to {LONGEST_S:g}, not {node.shown()}")
        values.append(replace(node, value=float(written)))
    if not values:
        raise InputError(file, "holds no delays: write one number of seconds a line")
    return values


def _resolved(seconds: Node) -> Node:
    kind = seconds.get("distribution")
    return _trace(seconds) if kind is not None and kind.value == "trace" else seconds


def _trace(seconds: Node) -> Node:
    """Return a trace with its file's values; a trace that holds its values already stays."""
    known = ("distribution", "file", "values_s")
    for name, node in seconds.entries().items():
        if name not in known:
            raise node.error(f"unknown key{unknown(name, known)}")
    file, values = seconds.get("file"), seconds.get("values_s")
    if file is not None and values is not None:
        raise file.error("the same thing is said twice: a trace has a file or values_s")
    if file is None:
        if values is None:
            raise seconds.error("a trace needs a file: one number of seconds a line")
        return seconds
    return seconds.having({"distribution": seconds.entries()["distribution"], "values_s": _read(file)})


def _read(file: Node) -> Node:
    if not isinstance(file.value, str):
        raise file.error(f"must be the path of a text file, not {file.shown()}")
    path = file.file.parent / Path(file.value)
    try:
        text = read_text(path)
    except InputError as error:
        raise file.error(str(error)) from error
    return replace(file, value=parse_trace(path, text))
