"""Pieces of logs become columns: the hot kinds of events as frames, all others as their lines, and what was unusable.

A piece ends where a line does. All lines of one are decoded at once; only where that fails, one after the other.
"""

from __future__ import annotations

import io
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec
import polars as pl

from deploy.analysis.reading import kinds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PIECE_BYTES = 16 << 20
TORN = "torn"
_NAMED = msgspec.json.Decoder(kinds.Named)
_BROKEN = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding raises for bytes that may be anything; see `flcommon.decoding`."""


class Piece(msgspec.Struct, frozen=True):
    """A part of a file, from a line's start to a line's end."""

    path: str
    start: int
    end: int


class Flaw(msgspec.Struct, frozen=True):
    """A line that is no event: what is wrong with it, or, where only its `name` is not known, that."""

    at: int
    why: str = ""
    name: str = ""


class Parsed(msgspec.Struct):
    """What some pieces held: lines by piece, or None for one that could not be read and why in `unreadable`.

    `frames` are Arrow IPC streams by the kind's name, `stamps` one of all lines that have a stamp. Lines are numbered
    (`at`) from 0 through all pieces.
    """

    lines: list[int]
    stamps: bytes
    frames: dict[str, bytes]
    cold: list[tuple[int, bytes]]
    flaws: list[Flaw]
    unreadable: dict[int, str]


def pieces_of(path: str) -> list[Piece]:
    """Cut a file at line ends into pieces; raises OSError when it cannot be read."""
    found, start = [], 0
    with open(path, "rb") as file:  # noqa: PTH123 - paths travel between processes as text
        size = os.fstat(file.fileno()).st_size
        while start < size:
            file.seek(min(start + PIECE_BYTES, size))
            file.readline()
            found.append(Piece(path, start, file.tell()))
            start = file.tell()
    return found


def parse(pieces: Sequence[Piece]) -> Parsed:
    """Read pieces that need not be of one file."""
    gathered = _Gathered()
    lines, unreadable = [], {}
    for number, piece in enumerate(pieces):
        before = gathered.lines
        try:
            gathered.take(_text(piece))
        except OSError as error:
            unreadable[number] = error.strerror or str(error)
        lines.append(gathered.lines - before)
    return Parsed(
        lines=lines,
        stamps=_packed(pl.DataFrame(gathered.stamps, schema=dict.fromkeys(("at", *kinds.STAMP), pl.Int64))),
        frames={name: _packed(frame) for name, frame in gathered.frames()},
        cold=gathered.cold,
        flaws=gathered.flaws,
        unreadable=unreadable,
    )


def _text(piece: Piece) -> bytes:
    with open(piece.path, "rb") as file:  # noqa: PTH123 - as above
        file.seek(piece.start)
        return file.read(piece.end - piece.start)


def _packed(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_ipc_stream(buffer, compression="uncompressed")
    return buffer.getvalue()


class _Gathered:
    """What was found so far; `lines` counts all of them, also the unusable."""

    def __init__(self) -> None:
        self.lines = 0
        self.stamps: dict[str, list[int]] = {name: [] for name in ("at", *kinds.STAMP)}
        self.rows: dict[type[Any], tuple[list[int], list[Any]]] = {kind: ([], []) for kind in kinds.ROWS}
        self.cold: list[tuple[int, bytes]] = []
        self.flaws: list[Flaw] = []

    def take(self, text: bytes) -> None:
        """Take in the lines of a piece."""
        count = text.count(b"\n") + (not text.endswith(b"\n") and bool(text))
        found: list[Any] = []
        with suppress(*_BROKEN):
            found = kinds.decoder.decode_lines(text)
        whole = len(found) == count  # else two lines are one event, or one line two
        if whole:
            self._note(found, range(self.lines, self.lines + count), text)
        else:
            self._note(*self._one_by_one(text), text)
        self.lines += count

    def _note(self, found: Sequence[Any], numbers: Sequence[int], text: bytes) -> None:
        self.stamps["at"] += numbers
        for name in kinds.STAMP:
            self.stamps[name] += [getattr(event, name) for event in found]
        cold = []
        for number, event in zip(numbers, found, strict=True):
            kept = self.rows.get(type(event))
            if kept is not None:
                kept[0].append(number)
                kept[1].append(event)
            elif type(event) is not kinds.Named:
                cold.append(number)
        if cold:
            lines = text.split(b"\n")
            self.cold += [(number, lines[number - self.lines]) for number in cold]

    def _one_by_one(self, text: bytes) -> tuple[list[Any], list[int]]:
        """Return what has at least a stamp in a piece of which something is unusable, with the lines' numbers."""
        found, numbers = [], []
        for number, line in enumerate(io.BytesIO(text), self.lines):
            event, flaw = _event(number, line)
            if flaw is not None:
                self.flaws.append(flaw)
            if event is not None:
                found.append(event)
                numbers.append(number)
        return found, numbers

    def frames(self) -> Iterator[tuple[str, pl.DataFrame]]:
        """Yield the frame of each kind of which there is something, under its name."""
        for row, (numbers, found) in self.rows.items():
            kind = kinds.ROWS[row]
            if found:
                columns = {field.partition(".")[2] or field: _column(found, field) for field in kinds.HOT[kind]}
                columns |= {"at": numbers, "mono_ns": [event.mono_ns for event in found]}
                schema = kinds.schema(kind)
                yield kinds.name_of(kind), pl.DataFrame({name: columns[name] for name in schema}, schema=schema)


def _column(found: Sequence[Any], field: str) -> list[Any]:
    head, _, rest = field.partition(".")
    if rest:
        return [getattr(getattr(event, head), rest) for event in found]
    return [getattr(event, head) for event in found]


def _event(number: int, line: bytes) -> tuple[Any, Flaw | None]:
    """Decode one line: the event, its stamp where only that can be used, and what is wrong."""
    try:
        return kinds.decoder.decode(line), None
    except _BROKEN as error:
        why = f"unusable ({error})" if line.endswith(b"\n") else TORN
    try:
        named = _NAMED.decode(line)
    except _BROKEN:
        return None, Flaw(number, why)
    return named, Flaw(number, why) if named.name in kinds.KNOWN else Flaw(number, name=named.name)
