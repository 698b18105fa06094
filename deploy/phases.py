"""The controller's own account of a command: how long each phase of the life cycle took."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deploy.view import View


@dataclass
class Phases:
    """Seconds of each phase by its name; tells the view when one begins."""

    view: View
    seconds: dict[str, float] = field(default_factory=dict)
    _name: str = ""
    _since: float = 0.0

    def begin(self, name: str) -> None:
        """End the phase before, if any, and begin this one."""
        self.end()
        self._name, self._since = name, time.monotonic()
        self.view.phase(name)

    def end(self) -> None:
        """End the current phase."""
        if self._name:
            self.seconds[self._name] = self.seconds.get(self._name, 0.0) + time.monotonic() - self._since
        self._name = ""
