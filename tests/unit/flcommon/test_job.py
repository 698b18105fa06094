"""The job file: what the controller wrote is what a process reads; anything else is refused by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from flcommon.delay import Constant, Delay
from flcommon.errors import FieldlabError
from flcommon.job import AppRef, ClientJob, ClientTrial, Job, JobError, ServerJob, ServerTrial, Stop, load_job

if TYPE_CHECKING:
    from pathlib import Path

APP = AppRef(client="pkg.client_app:app", server="pkg.server_app:app")
SERVER = ServerJob(
    campaign="c1",
    host="server",
    app=APP,
    listen="127.0.0.1:0",
    clients=("a", "b"),
    trials=(ServerTrial(index=0, seed=1, run_config={"lr": 0.1, "on": True, "n": 3, "s": "x"}, rounds=2),),
    warmup=ServerTrial(index=-1, seed=1, run_config={}, rounds=1, stop=Stop("accuracy", 0.5)),
)
CLIENT = ClientJob(
    campaign="c1",
    host="a",
    app=APP,
    server_address="127.0.0.1:1",
    delay_seed=1,
    node_config={"partition-id": 0},
    trials=(ClientTrial(index=0, seed=1, run_config={}, schedule=4, delay=Delay(0.5, Constant(3.0))),),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "job.json"


@pytest.mark.parametrize("job", [SERVER, CLIENT])
def test_a_job_is_read_as_it_was_written(path: Path, job: Job) -> None:
    """The same values and the same types: a run_config's 3 stays an int, true a bool, 0.1 a float."""
    path.write_bytes(msgspec.json.encode(job))
    loaded = load_job(path, type(job))
    assert loaded == job
    if isinstance(loaded, ServerJob):
        assert [type(v) for v in loaded.trials[0].run_config.values()] == [float, bool, int, str]


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        (b'"clients"', b'"klients"', "klients"),
        (b'"rounds":2', b'"rounds":"two"', r"\$\.trials\[0\]\.rounds"),
        (b'"seed":1', b'"seeds":1', "seeds"),
        (b'"listen":"127.0.0.1:0",', b"", "listen"),
        (b'"campaign":"c1"', b'"campaign":"\xff"', "utf-8"),
        (b'{"campaign"', b"campaign", "malformed"),
    ],
    ids=["unknown key", "wrong type", "key of a trial", "missing key", "not UTF-8", "not JSON"],
)
def test_a_bad_job_names_the_file_and_the_key(path: Path, old: bytes, new: bytes, named: str) -> None:
    """What is wrong with a job file is one sentence with its path and the place in it."""
    whole = msgspec.json.encode(SERVER)
    assert old in whole
    path.write_bytes(whole.replace(old, new))
    with pytest.raises(JobError, match=named) as caught:
        load_job(path, ServerJob)
    assert str(caught.value).startswith(f"{path}: ")
    assert isinstance(caught.value, FieldlabError)


def test_a_delay_out_of_range_is_refused(path: Path) -> None:
    """The delay's own checks hold here too: a probability is at most 1."""
    path.write_bytes(msgspec.json.encode(CLIENT).replace(b'"probability":0.5', b'"probability":1.5'))
    with pytest.raises(JobError, match="probability"):
        load_job(path, ClientJob)


def test_a_servers_job_is_no_clients_job(path: Path) -> None:
    """A job that went to the wrong process is refused."""
    path.write_bytes(msgspec.json.encode(SERVER))
    with pytest.raises(JobError, match=r"job\.json"):
        load_job(path, ClientJob)


def test_a_job_that_cannot_be_read_is_named(path: Path) -> None:
    """No file, or a directory in its place: the path and the system's words."""
    with pytest.raises(JobError, match=r"job\.json: cannot be read: No such file"):
        load_job(path, ServerJob)
    path.mkdir()
    with pytest.raises(JobError, match=r"job\.json: cannot be read: Is a directory"):
        load_job(path, ServerJob)


@pytest.mark.parametrize("end", [0, 1, 40, -1])
def test_half_a_job_is_no_job(path: Path, end: int) -> None:
    """A file that was not written whole is refused."""
    path.write_bytes(msgspec.json.encode(SERVER)[:end])
    with pytest.raises(JobError, match=r"job\.json"):
        load_job(path, ServerJob)
