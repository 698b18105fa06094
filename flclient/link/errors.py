"""What keeps a host's kernel from shaping a link."""

from __future__ import annotations

from flcommon.errors import FieldlabError


class LinkError(FieldlabError):
    """A link that cannot be shaped, or put back; `str()` is one sentence for a person."""
