"""Who holds which training examples: a pure function of the labels and a `Share`; knows nothing of images.

Every client works its share out by itself, so all must draw the same numbers. These come from numpy's `RandomState`,
seeded through `SeedSequence`: the one generator whose distributions numpy has frozen (NEP 19). Hosts with different
numpy releases therefore agree on who holds what.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

KINDS = ("full", "iid", "dirichlet")


class PartitionError(ValueError):
    """A share that cannot be given."""


@dataclass(frozen=True)
class Share:
    """One client's share of a training set: part `partition_id` of `num_partitions`.

    `full`: every client holds everything. `iid`: a shuffled set dealt out in turn. `dirichlet`: parts of equal size
    with class mixtures drawn with concentration `alpha`. Sizes differ by one at most, so every client holds at least
    one example. `subset` keeps that many of the client's examples (0: all), chosen by `seed`.
    """

    kind: str
    partition_id: int
    num_partitions: int
    seed: int
    alpha: float = 0.0
    subset: int = 0


def indices(labels: NDArray[np.int64], share: Share) -> NDArray[np.int64]:
    """Return the ascending indices into `labels` (n,) of the examples in `share`.

    Raises PartitionError if the partition's number is out of range, or there are more clients than examples.
    """
    _check(len(labels), share)
    rng = _generator(share.seed)
    if share.kind == "full":
        own = np.arange(len(labels))
    elif share.kind == "iid":
        own = rng.permutation(len(labels))[share.partition_id :: share.num_partitions]
    else:
        own = _dirichlet(labels, share, rng)[share.partition_id :: share.num_partitions]
    if 0 < share.subset < len(own):
        own = rng.permutation(own)[: share.subset]
    return np.sort(own)


def _check(examples: int, share: Share) -> None:
    if share.kind not in KINDS:
        raise PartitionError(f"partition {share.kind!r} is none of {', '.join(KINDS)}")
    if not 0 <= share.partition_id < share.num_partitions:
        raise PartitionError(f"partition-id {share.partition_id} is not below {share.num_partitions} and at least 0")
    if share.kind != "full" and share.num_partitions > examples:
        raise PartitionError(f"{examples} examples cannot be split among {share.num_partitions} clients")
    if share.kind == "dirichlet" and not share.alpha > 0:
        raise PartitionError(f"dirichlet needs alpha above 0, not {share.alpha}")


def _generator(seed: int) -> np.random.RandomState:
    bits = np.random.MT19937(np.random.SeedSequence(seed))
    return np.random.RandomState(bits)


def _dirichlet(labels: NDArray[np.int64], share: Share, rng: np.random.RandomState) -> NDArray[np.int64]:
    """Return all indices in the order in which they are dealt: client k gets those at k, k + N, k + 2N, ...

    After Hsu, Qi and Brown (2019), arXiv:1909.06335: client k's class mixture is drawn from Dir(alpha p), p being the
    class distribution of the set and summing to 1 (with ten even classes, authors who write Dir(alpha) for each class
    mean ten times this alpha). Examples are drawn without replacement, equally many for each client. Where a class
    runs out, clients draw among the classes left, by their own mixture; they take one example each in turn, so that
    none is left with the remainder.
    """
    classes, label_of, counts = np.unique(labels, return_inverse=True, return_counts=True)
    mixtures = _mixtures(share.alpha * counts / len(labels), share.num_partitions, rng)
    dealt = _deal(mixtures, counts, rng)
    order = np.empty(len(labels), dtype=np.int64)
    for index in range(len(classes)):
        order[dealt == index] = rng.permutation(np.flatnonzero(label_of == index))
    return order


def _mixtures(concentration: NDArray[np.float64], clients: int, rng: np.random.RandomState) -> NDArray[np.float64]:
    """Draw a class mixture (clients, classes) for each client from a Dirichlet distribution.

    Normalised gamma variables, by logarithm and Gamma(a) = Gamma(a + 1) U^(1/a): for a small concentration numpy's own
    `RandomState.dirichlet` underflows and gives 0/0.
    """
    shape = (clients, len(concentration))
    log_gamma = np.log(rng.standard_gamma(concentration + 1, shape))
    log_gamma += np.log1p(-rng.random_sample(shape)) / concentration
    gamma = np.exp(log_gamma - log_gamma.max(axis=1, keepdims=True))
    return np.asarray(gamma / gamma.sum(axis=1, keepdims=True))


def _deal(mixtures: NDArray[np.float64], counts: NDArray[np.int64], rng: np.random.RandomState) -> NDArray[np.int64]:
    """Return the class (an index into `counts`) taken at each turn; every class is taken as often as it counts."""
    left = counts.tolist()
    ladders = _ladders(mixtures, left)
    dealt = np.empty(sum(left), dtype=np.int64)
    for turn, u in enumerate(rng.random_sample(len(dealt)).tolist()):
        taken = bisect_right(ladders[turn % len(ladders)], u)
        dealt[turn] = taken
        left[taken] -= 1
        if left[taken] == 0 and any(left):
            ladders = _ladders(mixtures, left)
    return dealt


def _ladders(mixtures: NDArray[np.float64], left: list[int]) -> list[list[float]]:
    """Return each client's cumulative class probabilities among the classes that are left.

    A client whose mixture has no weight on any of them draws by what is left.
    """
    weights = np.where(np.array(left) > 0, mixtures, 0.0)
    weights[weights.sum(axis=1) == 0] = left
    steps = weights.cumsum(axis=1)
    ladders: list[list[float]] = (steps / steps[:, -1:]).tolist()
    return ladders
