import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flclient.apps.cifar10 import partition
from flclient.apps.cifar10.partition import PartitionError, Share

Labels = NDArray[np.int64]

label_lists = st.lists(st.integers(0, 9), min_size=1, max_size=200).map(np.array)
seeds = st.integers(0, 2**64 - 1)
alphas = st.floats(1e-4, 1e4)


def parts(labels: Labels, kind: str, clients: int, seed: int = 1, alpha: float = 0.0) -> list[Labels]:
    return [partition.indices(labels, Share(kind, part, clients, seed, alpha)) for part in range(clients)]


def balanced(examples: int) -> Labels:
    return np.arange(examples) % 10


@given(labels=label_lists, kind=st.sampled_from(["iid", "dirichlet"]), seed=seeds, alpha=alphas, data=st.data())
def test_parts_are_disjoint_complete_and_even(
    labels: Labels, kind: str, seed: int, alpha: float, data: st.DataObject
) -> None:
    """Every example belongs to exactly one client, and every client has at least one, none over one more."""
    clients = data.draw(st.integers(1, len(labels)))
    split = parts(labels, kind, clients, seed, alpha)
    assert sorted(np.concatenate(split)) == list(range(len(labels)))
    sizes = [len(part) for part in split]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1


@given(labels=label_lists, kind=st.sampled_from(partition.KINDS), seed=seeds, data=st.data())
def test_parts_do_not_depend_on_who_asks_first(labels: Labels, kind: str, seed: int, data: st.DataObject) -> None:
    """A share is a function of its fields: asked in any order, on any host, it is the same."""
    clients = data.draw(st.integers(1, len(labels)))
    order = data.draw(st.permutations(range(clients)))
    split = parts(labels, kind, clients, seed, alpha=0.5)
    again = {part: partition.indices(labels, Share(kind, part, clients, seed, 0.5)) for part in order}
    assert all(np.array_equal(split[part], again[part]) for part in order)


def test_full_is_everything_for_everyone() -> None:
    assert all(list(part) == list(range(50)) for part in parts(balanced(50), "full", 3))


def test_numbers_are_the_same_on_every_host() -> None:
    """Clients work their shares out apart: these indices must never change, whatever the numpy release."""
    assert list(partition.indices(balanced(12), Share("iid", 0, 3, seed=1))) == [4, 6, 8, 11]
    assert list(partition.indices(balanced(30), Share("dirichlet", 1, 5, seed=1, alpha=1.0))) == [2, 6, 17, 22, 23, 27]


@pytest.mark.parametrize("kind", ["iid", "dirichlet"])
def test_another_seed_gives_another_split(kind: str) -> None:
    first, second = (parts(balanced(100), kind, 2, seed, alpha=1.0) for seed in (1, 2))
    assert not np.array_equal(first[0], second[0])


def test_large_alpha_gives_every_client_the_same_mixture() -> None:
    """Dir(alpha p) concentrates on p: with 4,000 of each class among 4 clients, each has about 1,000 of each."""
    labels = balanced(40_000)
    for part in parts(labels, "dirichlet", 4, alpha=1e6):
        assert np.bincount(labels[part], minlength=10) == pytest.approx(1000, abs=120)


def test_small_alpha_gives_each_client_one_class_while_it_lasts() -> None:
    """A class holds enough for 10 of the 100 clients: the one that most want lasts them for 10/m of their examples.

    Until then nobody takes anything else, so every client holds at least that much of the one class that it wants.
    """
    labels = balanced(10_000)
    mixtures = partition._mixtures(np.full(10, 1e-4 / 10), 100, partition._generator(seed=1))
    wanted = mixtures.argmax(axis=1)
    rivals = np.bincount(wanted, minlength=10)[wanted]
    split = parts(labels, "dirichlet", 100, alpha=1e-4)
    got = np.array([np.mean(labels[part] == label) for part, label in zip(split, wanted, strict=True)])
    lasts = 10 / rivals.max()
    assert 0.5 < lasts < 1
    assert got.min() > lasts - 0.02
    assert np.allclose(got[rivals == rivals.max()], lasts, atol=0.02)


def test_mixtures_have_the_moments_of_the_dirichlet_distribution() -> None:
    """Mean p and variance p (1 - p) / (alpha + 1), within five standard errors of 20,000 draws, tiny alpha too."""
    p = np.array([0.2, 0.3, 0.5])
    for alpha in (1e-3, 0.5, 5.0):
        draws = partition._mixtures(alpha * p, 20_000, partition._generator(3))
        assert np.isfinite(draws).all()
        assert draws.sum(axis=1) == pytest.approx(1.0)
        deviation = np.sqrt(p * (1 - p) / (alpha + 1))
        assert (np.abs(draws.mean(axis=0) - p) < 5 * deviation / np.sqrt(20_000)).all()
        assert draws.std(axis=0) == pytest.approx(deviation, rel=0.05)


@pytest.mark.parametrize("kind", partition.KINDS)
def test_subset_keeps_that_many_of_the_clients_own(kind: str) -> None:
    labels = balanced(100)
    whole = partition.indices(labels, Share(kind, 1, 2, seed=1, alpha=1.0))
    some = partition.indices(labels, Share(kind, 1, 2, seed=1, alpha=1.0, subset=7))
    assert len(set(some)) == 7
    assert set(some) <= set(whole)
    more = partition.indices(labels, Share(kind, 1, 2, seed=1, alpha=1.0, subset=1000))
    assert np.array_equal(more, whole)


@pytest.mark.parametrize(
    ("share", "message"),
    [
        (Share("iid", 3, 3, seed=1), "partition-id 3 is not below 3"),
        (Share("full", -1, 3, seed=1), "partition-id -1"),
        (Share("iid", 0, 11, seed=1), "10 examples cannot be split among 11 clients"),
        (Share("dirichlet", 0, 2, seed=1), "alpha above 0"),
        (Share("idd", 0, 2, seed=1), "'idd' is none of full, iid, dirichlet"),
    ],
)
def test_impossible_shares_are_refused(share: Share, message: str) -> None:
    with pytest.raises(PartitionError, match=message):
        partition.indices(balanced(10), share)
