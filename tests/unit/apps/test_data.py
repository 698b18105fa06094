import hashlib
import pickle
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torchvision import transforms
from torchvision.datasets import CIFAR10

from flclient.apps.cifar10 import cifar10_files, data, make_digits
from flclient.apps.cifar10.data import DataError, Source

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
BATCHES = [f"data_batch_{number}" for number in range(1, 6)]


def write_batch(path: Path, seed: int, size: int) -> None:
    """Write a batch as on https://www.cs.toronto.edu/~kriz/cifar.html: rows of 1,024 red, green and blue bytes."""
    rng = np.random.default_rng(seed)
    batch = {
        "batch_label": path.name,
        "labels": rng.integers(0, 10, size).tolist(),
        "data": rng.integers(0, 256, (size, 3072), dtype=np.uint8),
        "filenames": [f"image_{number}.png" for number in range(size)],
    }
    path.write_bytes(pickle.dumps(batch, protocol=2))


@pytest.fixture
def made_set(tmp_path: Path) -> Path:
    """A directory with a small set in CIFAR-10's layout: five batches of 8, and 6 to test."""
    folder = tmp_path / "made" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for seed, name in enumerate(BATCHES):
        write_batch(folder / name, seed, size=8)
    write_batch(folder / "test_batch", seed=9, size=6)
    meta = {"num_cases_per_batch": 8, "label_names": CLASSES, "num_vis": 3072}
    (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))
    return folder.parent


def written(root: Path, *names: str) -> tuple[np.ndarray, list[int]]:
    batches = [pickle.loads((root / "cifar-10-batches-py" / name).read_bytes()) for name in names]  # noqa: S301 - ours
    pixels = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
    return pixels, [label for batch in batches for label in batch["labels"]]


def test_digits_file_is_scikit_learns_copy() -> None:
    """All 1,797 digits, value for value and in order, in a small file with its licence beside it."""
    original = load_digits()
    with np.load(data.DIGITS_FILE) as file:
        assert file["images"].dtype == file["labels"].dtype == np.uint8
        assert np.array_equal(file["images"], original.images)
        assert np.array_equal(file["labels"], original.target)
        assert len(file["labels"]) == 1797
    assert data.DIGITS_FILE.stat().st_size < 200_000
    assert "CC BY 4.0" in data.DIGITS_FILE.with_name("digits.LICENSE.md").read_text(encoding="utf-8")


def test_digits_file_can_be_made_again(tmp_path: Path) -> None:
    make_digits.make(tmp_path / "digits.npz")
    with np.load(tmp_path / "digits.npz") as made, np.load(data.DIGITS_FILE) as kept:
        assert all(np.array_equal(made[name], kept[name]) for name in ("images", "labels"))


def test_digits_are_split_once_and_for_all() -> None:
    """1,437 to train and 360 to test, nothing in both, nothing lost, each class in its proportion on both sides."""
    labels = load_digits().target.astype(np.uint8)
    train, test = (data.digits_split(labels, train=side) for side in (True, False))
    assert (len(train), len(test)) == (1437, 360)
    assert sorted([*train, *test]) == list(range(1797))
    assert (np.abs(np.bincount(labels[test]) - np.bincount(labels) / 5) < 1).all()


def test_digits_fill_the_cnns_images() -> None:
    """Each 8x8 value becomes a 4x4 block in three equal channels, 0..16 scaled to -1..1."""
    examples = data.load(Source("digits"), train=True)
    original = load_digits()
    index = data.digits_split(original.target.astype(np.uint8), train=True)
    images, labels = examples.batch(torch.arange(len(examples)))
    assert (images.shape, images.dtype) == ((1437, 3, 32, 32), torch.float32)
    expected = torch.tensor(np.kron(original.images[index], np.ones((4, 4))) / 8 - 1, dtype=torch.float32)
    assert all(torch.equal(images[:, channel], expected) for channel in range(3))
    assert labels.tolist() == original.target[index].tolist()


def test_digits_take_no_path() -> None:
    with pytest.raises(DataError, match="they take no path"):
        data.load(Source("digits", "/somewhere"), train=True)


def test_unknown_sets_are_refused() -> None:
    with pytest.raises(DataError, match="'mnist' is none of digits, cifar10"):
        data.load(Source("mnist"), train=True)


def test_cifar10_is_read_from_its_published_layout(made_set: Path) -> None:
    """All five batches in order to train, the sixth to test, as torchvision reads them."""
    pixels, labels = written(made_set, *BATCHES)
    train = data.load(Source("cifar10", str(made_set)), train=True)
    assert np.array_equal(train.images.numpy(), pixels)
    assert train.labels.tolist() == labels
    test = data.load(Source("cifar10", str(made_set)), train=False)
    assert np.array_equal(test.images.numpy(), written(made_set, "test_batch")[0])


def test_cifar10_is_normalised_as_in_the_quickstart(made_set: Path) -> None:
    """The same bits as ToTensor and Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))."""
    quickstart = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3)])
    pixels, _ = written(made_set, "test_batch")
    expected = torch.stack([quickstart(Image.fromarray(image.transpose(1, 2, 0))) for image in pixels])
    test = data.load(Source("cifar10", str(made_set)), train=False)
    assert torch.equal(test.batch(torch.arange(6))[0], expected)


def test_missing_cifar10_says_where_and_what(tmp_path: Path) -> None:
    """One message names the path and the files expected there; nothing is downloaded or made."""
    missing = tmp_path / "nothing"
    with pytest.raises(DataError, match="cifar-10-batches-py/ with data_batch_1") as caught:
        data.load(Source("cifar10", str(missing)), train=True)
    assert str(missing) in str(caught.value)
    assert not missing.exists()


ELEVENTH_CLASS = {"data": np.zeros((2, 3072), np.uint8), "labels": [10, 0]}


@pytest.mark.parametrize(
    "content",
    [b"not a pickle", b"", pickle.dumps([1, 2]), pickle.dumps(ELEVENTH_CLASS)],
    ids=["text", "empty", "list", "eleventh class"],
)
def test_damaged_cifar10_says_where(made_set: Path, content: bytes) -> None:
    (made_set / "cifar-10-batches-py" / "data_batch_3").write_bytes(content)
    with pytest.raises(DataError, match=f"data.path {made_set}"):
        data.load(Source("cifar10", str(made_set)), train=True)


def publish(made_set: Path, url: str) -> type[CIFAR10]:
    """Return torchvision's reader for the made set as if it were the published one: with its sums, and at `url`."""
    folder = made_set / "cifar-10-batches-py"
    sums = {path.name: hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() for path in folder.iterdir()}
    archive = made_set / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)
    published_at, archive_sum = url, hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest()

    class Published(CIFAR10):
        url = published_at
        tgz_md5 = archive_sum
        train_list: ClassVar = [[name, sums[name]] for name in BATCHES]
        test_list: ClassVar = [["test_batch", sums["test_batch"]]]
        meta: ClassVar = {**CIFAR10.meta, "md5": sums["batches.meta"]}

    return Published


@pytest.fixture
def web(made_set: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serve the made set's directory on this host; yields its URL."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=made_set)) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Leave the terminal to pytest."""


def test_cifar10_is_downloaded_once(made_set: Path, web: str, tmp_path: Path) -> None:
    """What is not there is fetched, checked and unpacked; what is there is not fetched again."""
    reader = publish(made_set, f"{web}/{CIFAR10.filename}")
    cache = tmp_path / "cache"
    train = cifar10_files.read_downloaded(cache, train=True, reader=reader)
    assert train.labels.tolist() == written(made_set, *BATCHES)[1]
    (made_set / CIFAR10.filename).unlink()
    test = cifar10_files.read_downloaded(cache, train=False, reader=reader)
    assert test.labels.tolist() == written(made_set, "test_batch")[1]


def test_failed_download_says_what_to_do(made_set: Path, tmp_path: Path) -> None:
    url = (tmp_path / "no-such-archive.tar.gz").as_uri()
    with pytest.raises(DataError, match="cannot be downloaded") as caught:
        cifar10_files.read_downloaded(tmp_path / "cache", train=True, reader=publish(made_set, url))
    assert all(hint in str(caught.value) for hint in (str(tmp_path / "cache"), url, "data.path", "data_batch_1"))


def test_a_set_is_read_once_per_process() -> None:
    assert data.load(Source("digits"), train=True) is data.load(Source("digits"), train=True)


def test_downloads_go_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """FIELDLAB_DATA names the directory; without it ~/.fieldlab/data."""
    monkeypatch.setenv("HOME", "/home/kim")
    monkeypatch.delenv("FIELDLAB_DATA", raising=False)
    assert data.cache_directory() == Path("/home/kim/.fieldlab/data")
    monkeypatch.setenv("FIELDLAB_DATA", "~/sets")
    assert data.cache_directory() == Path("/home/kim/sets")


def test_digits_do_not_import_torchvision() -> None:
    """Its import costs a slow host many seconds, for nothing."""
    script = (
        "import sys; from flclient.apps.cifar10 import data; "
        "data.load(data.Source('digits'), train=True); print('torchvision' in sys.modules)"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "False"
