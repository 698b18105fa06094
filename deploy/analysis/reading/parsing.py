"""Pieces of logs become columns: the hot kinds of events as frames, all others as their lines, and what was unusable.

A piece ends where a line does. All lines of one are decoded at once; only where that fails, one after the other.
"""

from __future__ import annotations

import io
import os
from contextlib import suppress
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import polars as pl

from deploy.analysis.reading import kinds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    _Integers = NDArray[np.int64]
    _Columns = dict[str, _Integers]

PIECE_BYTES = 16 << 20
TORN = "torn"
_NAMED = msgspec.json.Decoder(kinds.Named)
_COLD, _STAMP_ONLY = -1, -2
_CODES = (
    {row: code for code, row in enumerate(kinds.ROWS)} | dict.fromkeys(kinds.COLD, _COLD) | {kinds.Named: _STAMP_ONLY}
)
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
        stamps=_packed(pl.DataFrame(_joined(gathered.stamps, ("at", *kinds.STAMP)))),
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
        self.stamps: list[_Columns] = []
        self.rows: dict[type[Any], tuple[list[_Columns], list[Any]]] = {row: ([], []) for row in kinds.ROWS}
        self.cold: list[tuple[int, bytes]] = []
        self.flaws: list[Flaw] = []

    def take(self, text: bytes) -> None:
        """Take in the lines of a piece."""
        count = text.count(b"\n") + (not text.endswith(b"\n") and bool(text))
        found: list[Any] = []
        with suppress(*_BROKEN):
            found = kinds.decoder.decode_lines(text)
        if len(found) == count:
            self._note(found, np.arange(self.lines, self.lines + count), text)
        else:  # something is broken: also where two lines are one event, or one line two
            self._note(*self._one_by_one(text), text)
        self.lines += count

    def _note(self, found: Sequence[Any], at: _Integers, text: bytes) -> None:
        stamps = {name: np.fromiter(map(attrgetter(name), found), np.int64, len(found)) for name in kinds.STAMP}
        self.stamps.append({"at": at, **stamps})
        codes = np.fromiter(map(_CODES.__getitem__, map(type, found)), np.int8, len(found))
        for code, row in enumerate(kinds.ROWS):
            own = np.flatnonzero(codes == code)
            if len(own):
                self.rows[row][0].append({"at": at[own], "mono_ns": stamps["mono_ns"][own]})
                self.rows[row][1].extend(map(found.__getitem__, own.tolist()))
        cold = np.flatnonzero(codes == _COLD)
        if len(cold):
            lines = text.split(b"\n")
            self.cold += [(number, lines[number - self.lines]) for number in at[cold].tolist()]

    def _one_by_one(self, text: bytes) -> tuple[list[Any], _Integers]:
        """Return what has at least a stamp in a piece of which something is unusable, with the lines' numbers."""
        found, numbers = [], []
        for number, line in enumerate(io.BytesIO(text), self.lines):
            event, flaw = _event(number, line)
            if flaw is not None:
                self.flaws.append(flaw)
            if event is not None:
                found.append(event)
                numbers.append(number)
        return found, np.array(numbers, dtype=np.int64)

    def frames(self) -> Iterator[tuple[str, pl.DataFrame]]:
        """Yield the frame of each kind of which there is something, under its name."""
        for row, (moments, found) in self.rows.items():
            kind = kinds.ROWS[row]
            if found:
                columns: dict[str, Any] = _joined(moments, ("at", "mono_ns"))
                for field in kinds.HOT[kind]:
                    columns[field.rpartition(".")[2]] = list(map(attrgetter(field), found))
                yield kinds.name_of(kind), pl.DataFrame(columns, schema=kinds.schema(kind))


def _joined(parts: Sequence[_Columns], names: Sequence[str]) -> _Columns:
    nothing = [np.empty(0, dtype=np.int64)]
    return {name: np.concatenate(nothing + [part[name] for part in parts]) for name in names}


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
