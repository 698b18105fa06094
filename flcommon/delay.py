"""The injected delay: what a playbook may ask for, how one value is drawn, and what theory expects of it.

A draw depends on (seed, client, schedule, round) alone: not on the order of trials, on who drops out, or on the
strategy. It takes two uniform numbers from PCG64, seeded through numpy's `SeedSequence`, and turns them into a delay by
inverse transform. Both streams are frozen by numpy's compatibility policy (NEP 19), which its distributions are not:
hosts with different numpy releases therefore draw the same delays.

This module does not sleep: `flclient.mods` applies what is drawn here.
"""

from __future__ import annotations

import functools
import hashlib
import math
from statistics import NormalDist
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LONGEST_S = 86_400.0
"""A parameter above one day is a slip of the pen, and would let expectations overflow."""

NonNegative = Annotated[float, msgspec.Meta(ge=0, le=LONGEST_S)]
Positive = Annotated[float, msgspec.Meta(gt=0, le=LONGEST_S)]
Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]


@functools.cache
def _legendre() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return nodes in (-1, 1) and weights of Gauss-Legendre quadrature; computed on first use, for they take 30 ms."""
    nodes, weights = np.polynomial.legendre.leggauss(512)
    return nodes, weights


class _Distribution(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="distribution"):
    """A distribution of seconds, given by its quantile function."""

    @property
    def label(self) -> str:
        """Its name and parameters in a few characters, for figures and tables."""
        raise NotImplementedError

    def quantile_s(self, u: float) -> float:
        """Return the value in seconds below which a fraction `u` in [0, 1) of the draws lies."""
        raise NotImplementedError

    def expected_max_s(self, k: int) -> float:
        """Return E[max of `k` independent draws] in seconds.

        The expectation is the integral of Q(u) k u^(k-1) over [0, 1]. Substituting u = 1 - (1 - t)^4 gathers the
        Gauss-Legendre nodes at the upper tail, where unbounded distributions have their weight.
        """
        nodes, weights = _legendre()
        t = (nodes + 1) / 2
        u = np.minimum(1 - (1 - t) ** 4, 1 - 2**-53)
        density = 4 * (1 - t) ** 3 * k * u ** (k - 1) / 2
        values = np.array([self.quantile_s(float(x)) for x in u])
        return float(np.sum(weights * density * values))


class Constant(_Distribution, frozen=True, tag="constant"):
    """Always `seconds`. A bare number in a playbook means this."""

    seconds: NonNegative

    @property
    def label(self) -> str:
        """For example '3 s'."""
        return f"{self.seconds:g} s"

    def quantile_s(self, u: float) -> float:  # noqa: ARG002 - one signature for all distributions
        """Return the constant."""
        return self.seconds

    def expected_max_s(self, k: int) -> float:  # noqa: ARG002 - one signature for all distributions
        """Return the constant."""
        return self.seconds


class Uniform(_Distribution, frozen=True, tag="uniform"):
    """Uniform on [`low_s`, `high_s`]."""

    low_s: NonNegative
    high_s: NonNegative

    def __post_init__(self) -> None:
        if self.high_s < self.low_s:
            raise ValueError(f"high_s ({self.high_s:g}) must not be below low_s ({self.low_s:g})")

    @property
    def label(self) -> str:
        """For example 'U(3, 5) s'."""
        return f"U({self.low_s:g}, {self.high_s:g}) s"

    def quantile_s(self, u: float) -> float:
        """Interpolate between the bounds."""
        return self.low_s + (self.high_s - self.low_s) * u

    def expected_max_s(self, k: int) -> float:
        """Return the mean of the largest order statistic: low + (high - low) k / (k + 1)."""
        return self.low_s + (self.high_s - self.low_s) * k / (k + 1)


class Normal(_Distribution, frozen=True, tag="normal"):
    """Normal with `mean_s` and `std_s`; a draw below zero becomes zero, for time does not run backwards."""

    mean_s: NonNegative
    std_s: Positive

    @property
    def label(self) -> str:
        """For example 'N(3, 1²) s'."""
        return f"N({self.mean_s:g}, {self.std_s:g}²) s"

    def quantile_s(self, u: float) -> float:
        """Return the normal quantile, never below zero."""
        return max(0.0, NormalDist(self.mean_s, self.std_s).inv_cdf(u)) if u > 0 else 0.0


class LogNormal(_Distribution, frozen=True, tag="lognormal"):
    """exp(normal): half of the draws lie below `median_s`; `sigma` is the standard deviation of the logarithm."""

    median_s: Positive
    sigma: Annotated[float, msgspec.Meta(gt=0, le=4)]

    @property
    def label(self) -> str:
        """For example 'lognormal (median 3 s, sigma 0.5)'."""
        return f"lognormal (median {self.median_s:g} s, sigma {self.sigma:g})"

    def quantile_s(self, u: float) -> float:
        """Return median · exp(sigma · z(u))."""
        return self.median_s * math.exp(self.sigma * NormalDist().inv_cdf(u)) if u > 0 else 0.0


class Exponential(_Distribution, frozen=True, tag="exponential"):
    """Exponential with mean `mean_s`."""

    mean_s: Positive

    @property
    def label(self) -> str:
        """For example 'exponential (mean 3 s)'."""
        return f"exponential (mean {self.mean_s:g} s)"

    def quantile_s(self, u: float) -> float:
        """Return -mean · log(1 - u)."""
        return -self.mean_s * math.log1p(-u)

    def expected_max_s(self, k: int) -> float:
        """Return mean times the k-th harmonic number."""
        return self.mean_s * sum(1 / i for i in range(1, k + 1))


class Pareto(_Distribution, frozen=True, tag="pareto"):
    """Pareto (type I): never below `minimum_s`, P(X > x) = (minimum / x)^alpha. Its mean needs `alpha` > 1."""

    minimum_s: Positive
    alpha: Annotated[float, msgspec.Meta(gt=1)]

    @property
    def label(self) -> str:
        """For example 'Pareto (minimum 1 s, alpha 2)'."""
        return f"Pareto (minimum {self.minimum_s:g} s, alpha {self.alpha:g})"

    def quantile_s(self, u: float) -> float:
        """Return minimum · (1 - u)^(-1/alpha)."""
        return self.minimum_s * math.pow(1 - u, -1 / self.alpha)

    def expected_max_s(self, k: int) -> float:
        """Return minimum · Γ(k+1) Γ(1-1/alpha) / Γ(k+1-1/alpha)."""
        tail = 1 - 1 / self.alpha
        return self.minimum_s * math.exp(math.lgamma(k + 1) + math.lgamma(tail) - math.lgamma(k + tail))


class Trace(_Distribution, frozen=True, tag="trace"):
    """Recorded delays, played back in order: round r of every trial takes entry r, from the top again when exhausted.

    `values_s` holds the recording; a playbook names a `file` instead and the controller reads it (see
    `deploy.playbook`), so that a host needs no file.
    """

    values_s: Annotated[tuple[NonNegative, ...], msgspec.Meta(min_length=1)]

    @property
    def label(self) -> str:
        """For example 'trace of 50 values'."""
        return f"trace of {len(self.values_s)} values"

    def quantile_s(self, u: float) -> float:
        """Return the empirical quantile: what theory uses, for playback itself is not random."""
        ordered = sorted(self.values_s)
        return ordered[min(int(u * len(ordered)), len(ordered) - 1)]

    def expected_max_s(self, k: int) -> float:  # noqa: ARG002 - every client plays the same recording
        """Return the mean of the recording: in one round all clients play the same entry."""
        return sum(self.values_s) / len(self.values_s)

    def at_round(self, round_number: int) -> float:
        """Return the delay in seconds of round `round_number`, counted from 1."""
        return self.values_s[(round_number - 1) % len(self.values_s)]


Seconds = Constant | Uniform | Normal | LogNormal | Exponential | Pareto | Trace


class Delay(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The study's delay: in each round, with `probability`, a client waits `seconds` before it returns its update."""

    probability: Probability
    seconds: Seconds
    at: Literal["before-upload"] = "before-upload"

    def expected_slowest_s(self, clients: int) -> float:
        """Return the expected largest delay among `clients` equal clients in one round, in seconds.

        The sum over k of C(N, k) p^k (1 - p)^(N - k) E[max of k draws]; for a constant d it is d · (1 - (1 - p)^N).
        Source: order statistics (David and Nagaraja, Order Statistics, 3rd ed., ch. 3).
        """
        p = self.probability
        return sum(
            math.comb(clients, k) * p**k * (1 - p) ** (clients - k) * self.seconds.expected_max_s(k)
            for k in range(1, clients + 1)
        )


class Draw(msgspec.Struct, frozen=True):
    """Whose turn it is: everything that a drawn delay depends on."""

    seed: int
    client: str
    schedule: int
    round: int


def draw_s(delay: Delay, who: Draw) -> float:
    """Return the delay in seconds for one client in one round; 0.0 when the coin says no delay."""
    name = int.from_bytes(hashlib.sha256(who.client.encode()).digest()[:8], "big")
    stream = np.random.SeedSequence([who.seed, name, who.schedule, who.round])
    coin, size = np.random.Generator(np.random.PCG64(stream)).random(2)
    if coin >= delay.probability:
        return 0.0
    if isinstance(delay.seconds, Trace):
        return delay.seconds.at_round(who.round)
    return delay.seconds.quantile_s(float(size))
