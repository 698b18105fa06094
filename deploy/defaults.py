"""Where the embedded inventory and playbook are: in the package when installed, beside it in a source tree."""

from __future__ import annotations

from pathlib import Path

from deploy.errors import InputError

_PACKAGE = Path(__file__).parent
_ROOTS = (_PACKAGE / "embedded", _PACKAGE.parent)


def inventory_path() -> Path:
    """Return the path of the inventory that is used when none is given: a virtual lab."""
    return _find(Path("inventory", "virtual.yaml"))


def playbook_path() -> Path:
    """Return the path of the playbook that is used when neither the user nor the inventory names one."""
    return _find(Path("playbooks", "quick.yaml"))


def _find(file: Path) -> Path:
    for root in _ROOTS:
        if (root / file).is_file():
            return root / file
    raise InputError(_ROOTS[0] / file, "no such file: the installation is incomplete")
