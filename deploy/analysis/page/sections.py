"""What a page is made of: sections in the order in which they are read, each with words, pictures and tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from deploy.analysis.page.tables import Table

if TYPE_CHECKING:
    from deploy.analysis.figures.figure import Figure


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """A figure as a page needs it: words, specification, and the drawn svg for readers without scripts."""

    name: str
    title: str
    subtitle: str
    caption: str
    alt: str
    spec: dict[str, Any]
    svg: str

    @classmethod
    def of(cls, figure: Figure, spec: dict[str, Any], svg: str) -> Picture:
        """Return a figure with its specification for a page, and as it was drawn; its caption says how to use it."""
        return cls(
            name=figure.name,
            title=figure.title,
            subtitle=figure.subtitle,
            caption=figure.caption + figure.use,
            alt=figure.alt,
            spec=spec,
            svg=svg,
        )


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
