"""Where the numbers come from: hosts and their versions, and the files of the run, to be opened elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from deploy.analysis.columns import SPANS
from deploy.analysis.export.columns import TABLES
from deploy.analysis.page.sections import Part, Section
from deploy.analysis.page.tables import Head, Row, Table, text
from deploy.labels import UNKNOWN, value_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from deploy.analysis.reading.rows import Dataset
    from deploy.analysis.trace.write import Traced

TRACE = "trace.json"
ABOUT = {each.name: f"a row is {each.about}" for each in (SPANS, *TABLES)}


class Download(msgspec.Struct, frozen=True):
    """A file of the run: its path from the page, its name, and what is in it."""

    path: str
    name: str
    about: str


def downloads(run: Path, traced: Traced | None = None) -> tuple[Download, ...]:
    """Return what lies in the run directory for other programs: tables, and the trace if there is one."""
    return tuple(_downloads(run, traced))


def _downloads(run: Path, traced: Traced | None) -> Iterator[Download]:
    tables = sorted(path for path in (*run.glob("*.parquet"), *run.glob("tables/*")) if path.is_file())
    for path in tables:
        yield Download(f"../{path.relative_to(run)}", path.name, ABOUT.get(path.stem, ""))
    if traced is not None:
        name = traced.path.name
        yield Download(name, name, f"the run's time line, for ui.perfetto.dev and chrome://tracing{_cut(traced)}")


def _cut(traced: Traced) -> str:
    """Say how many rounds did not fit into the trace; nothing where all did."""
    whole = traced.rounds + traced.rounds_left_out
    return f", without the last {traced.rounds_left_out} of {whole} rounds" if traced.rounds_left_out else ""


def hosts(dataset: Dataset) -> Section:
    """Return the section on hosts: versions of each, folded its facts, and what the controller was."""
    manifest = dataset.manifest
    phases = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in manifest.phases_s.items())
    notes = (
        f"Campaign {manifest.campaign}. App {manifest.app}, code {manifest.code_digest}.",
        f"Controller: {facts(manifest.versions)}.",
        *((f"Controller's time: {phases}.",) if phases else ()),
    )
    versions = ((name, record.role, facts(dataset.versions.get(name, {}))) for name, record in manifest.hosts.items())
    known = ((name, facts(record.facts)) for name, record in manifest.hosts.items())
    parts = (
        Part(table=_wide("hosts-table", ("host", "role", "versions"), versions), notes=notes),
        Part(table=_wide("hosts-facts", ("host", "facts"), known), title="Facts of every host", folded=True),
    )
    return Section(name="hosts", title="Hosts and versions", parts=parts)


def _wide(name: str, heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Table:
    """Return a table of words, the last column of which is long."""
    columns = tuple(Head(head, number=False, wide=head == heads[-1]) for head in heads)
    return Table(name, " and ".join((heads[0], heads[-1])), columns, tuple(Row(tuple(map(text, row))) for row in rows))


def facts(known: Mapping[str, Any]) -> str:
    """Write a mapping on one line; a mapping inside it in parentheses."""
    parts = (
        f"{key} ({facts(value)})" if isinstance(value, Mapping) else f"{key} {value_text(value)}"
        for key, value in known.items()
    )
    return ", ".join(parts) or UNKNOWN
