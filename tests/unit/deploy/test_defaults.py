"""The embedded defaults: what runs when the user names no file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from deploy import defaults
from deploy.errors import InputError
from deploy.inventory import VirtualLab, load_inventory
from deploy.playbook import load_playbook

if TYPE_CHECKING:
    from pathlib import Path


def test_the_default_lab_is_virtual_and_runs_the_default_playbook() -> None:
    lab = load_inventory(defaults.inventory_path())
    assert isinstance(lab, VirtualLab)
    assert lab.clients == 3
    assert lab.playbook == defaults.playbook_path()
    assert len(load_playbook(defaults.playbook_path()).conditions) == 18


def test_the_package_comes_before_the_source_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a wheel the files lie below deploy/embedded; what lies beside the package is then somebody else's."""
    monkeypatch.setattr(defaults, "_ROOTS", (tmp_path / "embedded", tmp_path))
    for root in (tmp_path, tmp_path / "embedded"):
        (root / "inventory").mkdir(parents=True)
        (root / "inventory" / "virtual.yaml").touch()
    assert defaults.inventory_path() == tmp_path / "embedded" / "inventory" / "virtual.yaml"
    with pytest.raises(InputError, match=r"quick\.yaml: no such file: the installation is incomplete"):
        defaults.playbook_path()
