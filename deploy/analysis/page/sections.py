"""What a page is made of: sections in the order in which they are read, each with words, pictures and tables."""

from __future__ import annotations

from typing import Any

import msgspec

from deploy.analysis.page.tables import Table


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """A figure as a page needs it: words, specification, and the drawn svg for readers without scripts."""

    name: str
    title: str
    subtitle: str
    caption: str
    alt: str
    spec: dict[str, Any]
    svg: str


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """A table with its title and notes; a `folded` one is behind its title until a reader opens it."""

    table: Table
    title: str = ""
    notes: tuple[str, ...] = ()
    folded: bool = False


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """A section: what it says, its pictures, its tables; `template` names a file of the page that says more."""

    name: str
    title: str
    said: tuple[str, ...] = ()
    pictures: tuple[Picture, ...] = ()
    parts: tuple[Part, ...] = ()
    template: str = ""

    @property
    def tells(self) -> bool:
        """Whether there is anything in it."""
        return bool(self.said or self.pictures or self.parts or self.template)
