"""Run directories: never shared by two runs, and errors of this machine's disk are said in words."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from deploy.errors import DeployError
from deploy.manifest import SCHEMA_VERSION, Manifest
from deploy.rundir import RunDirectory

AT = datetime(2026, 1, 31, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def manifest():
    return Manifest(
        schema=SCHEMA_VERSION,
        campaign="c",
        lab="bench",
        playbook="quick",
        app="a",
        created_utc="",
        status="running",
        error=None,
        versions={},
        code_digest="",
        inventory={},
        playbook_resolved={},
        hosts={},
        trials=(),
        phases_s={},
    )


def test_runs_of_one_second_get_directories_of_their_own(tmp_path):
    """Nothing of an earlier run is overwritten."""
    runs = [RunDirectory.create(tmp_path, "bench", "quick", AT) for _ in range(3)]
    assert [run.path.relative_to(tmp_path).as_posix() for run in runs] == [
        "bench/quick-20260131T120000Z",
        "bench/quick-20260131T120000Z-2",
        "bench/quick-20260131T120000Z-3",
    ]
    assert runs[0].raw("pi-a") == runs[0].path / "raw" / "pi-a"


def test_a_manifest_is_replaced_whole(tmp_path, manifest):
    """No draft stays beside it."""
    run = RunDirectory.create(tmp_path, "bench", "quick", AT)
    run.write(manifest)
    run.write(manifest)
    assert [path.name for path in run.path.iterdir()] == ["manifest.json"]
    assert (run.path / "manifest.json").read_text().startswith("{\n")


def test_a_place_that_cannot_be_written_is_named(tmp_path, manifest):
    """A file stands where the runs should go; a run directory is gone."""
    (tmp_path / "runs").write_text("")
    with pytest.raises(DeployError, match=r"runs/bench/quick-.*: the run directory cannot be made: Not a directory"):
        RunDirectory.create(tmp_path / "runs", "bench", "quick", AT)
    with pytest.raises(DeployError, match=r"gone/manifest.json: cannot be written: No such file"):
        RunDirectory(tmp_path / "gone").write(manifest)
