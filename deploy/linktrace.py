"""Recorded links: reads the trace files of sections `link` into the playbook as steps, so that no host needs them.

A trace is CSV: a line of column names, then a line of numbers for each step. `#` begins a comment.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.convert import unknown
from deploy.errors import InputError
from deploy.links import SIDES, SWEPT
from deploy.yamlfile import Node, read_text

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_STEPS = 1500
"""Every trial of every client carries its link in the job, and the manifest keeps them all."""
TIME = "time_s"
BOTH = SWEPT
EACH = tuple(f"{side}_{key}" for side in SIDES for key in SWEPT)
MAY_BE_EMPTY = "rate_mbit"
"""An empty cell: no limit."""

_NUMBER = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?", re.ASCII)


def read_in_links(playbook: Node) -> Node:
    """Return the playbook with the traces of `link` and of each rule's `link` as steps.

    Raises InputError that names the playbook's line, or the trace's line and column.
    """
    entries = dict(playbook.entries())
    if "link" in entries:
        entries["link"] = _resolved(entries["link"])
    if isinstance(entries.get("hosts", playbook).value, list):
        entries["hosts"] = replace(entries["hosts"], value=[_with_link(rule) for rule in entries["hosts"].items()])
    return playbook.having(entries)


def parse_link_trace(file: Path, text: str) -> list[Node]:
    """Return the steps of a trace as a playbook would write them, each value at its line and column."""
    rows = _rows(file, text)
    header = next(rows, None)
    if header is None:
        raise InputError(file, f"is empty: begin with a line of column names, {TIME},delay_ms,rate_mbit")
    columns = _columns(header)
    steps = [_step(columns, row) for row in islice(rows, MOST_STEPS + 1)]
    if not steps:
        raise InputError(file, f"holds no steps: write a line of numbers for {', '.join(columns)} below the names")
    if len(steps) > MOST_STEPS:
        raise steps[-1].error(f"is the step after the first {MOST_STEPS}, and a trace may have no more")
    return steps


def _with_link(rule: Node) -> Node:
    link = rule.get("link")
    return rule if link is None else rule.having({**rule.entries(), "link": _resolved(link)})


def _resolved(link: Node) -> Node:
    """Return the link with steps in place of its trace; one that says more than a trace is refused later."""
    trace = link.get("trace")
    if trace is None or set(link.entries()) - {"trace", "layer"}:
        return link
    return link.having({**{key: node for key, node in link.entries().items() if key != "trace"}, "steps": _read(trace)})


def _read(trace: Node) -> Node:
    for name, node in trace.entries().items():
        if name != "file":
            raise node.error(f"unknown key{unknown(name, ['file'])}")
    file = trace.get("file")
    if file is None:
        raise trace.error(f"a trace needs a file: CSV with the columns {TIME} and delay_ms, rate_mbit, …")
    if not isinstance(file.value, str):
        raise file.error(f"must be the path of a CSV file, not {file.shown()}")
    path = file.file.parent / Path(file.value)
    try:
        text = read_text(path)
    except InputError as error:
        raise file.error(str(error)) from error
    return replace(file, value=parse_link_trace(path, text))


def _rows(file: Path, text: str) -> Iterator[list[Node]]:
    """Yield the cells of each line that says something."""
    for number, line in enumerate(text.split("\n"), start=1):
        written = line.partition("#")[0].strip()
        if written:
            yield [Node(file, number, "", cell.strip()) for cell in written.split(",")]


def _columns(header: list[Node]) -> list[str]:
    """Return the names of the columns; raises InputError for a header that cannot be."""
    names = [str(cell.value) for cell in header]
    for place, name in enumerate(names):
        if name not in (TIME, *BOTH, *EACH):
            raise header[place].error(f"unknown column {name!r}{unknown(name, (TIME, *BOTH, *EACH), 'columns')}")
        if name in names[:place]:
            raise header[place].error(f"the column {name} is there twice")
    if TIME not in names:
        raise header[0].error(f"there is no column {TIME}: seconds from the start of the trial")
    if names == [TIME]:
        raise header[0].error(f"there is only {TIME}: a trace needs delay_ms, jitter_ms, loss_pct or rate_mbit too")
    both, each = [name for name in names if name in BOTH], [name for name in names if name in EACH]
    if both and each:
        raise header[0].error(f"the same thing is said twice: {both[0]} gives both directions, and there is {each[0]}")
    return names


def _step(columns: list[str], row: list[Node]) -> Node:
    if len(row) != len(columns):
        raise row[0].error(f"has {len(row)} values, but there are {len(columns)} columns: {', '.join(columns)}")
    cells = {name: _number(name, cell) for name, cell in zip(columns, row, strict=True)}
    step = {"at_s": cells.pop(TIME)}
    for name, cell in cells.items():
        side, _, key = name.partition("_")
        if side not in SIDES:
            step[name] = cell
            continue
        way = step.get(side, row[0].having({}))
        step[side] = way.having({**way.entries(), key: cell})
    return row[0].having(step)


def _number(column: str, cell: Node) -> Node:
    """Return a cell's value; whether it may be so large or small is asked where steps are understood."""
    here = replace(cell, key=column)
    if not cell.value and column.endswith(MAY_BE_EMPTY):
        return replace(here, value=None)
    if not _NUMBER.fullmatch(str(cell.value)):
        raise here.error(f"must be a number, not {cell.shown()}")
    return replace(here, value=float(str(cell.value)))
