"""What the app understands of a Flower run_config, with the defaults; it ignores the keys of others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from flclient.apps.cifar10.data import DATA_SETS, Source
from flclient.apps.cifar10.partition import KINDS, Share
from flclient.apps.cifar10.task import Recipe

if TYPE_CHECKING:
    from flwr.app import UserConfig

KEYS = {
    "data.set": "data_set",
    "data.partition": "data_partition",
    "data.alpha": "data_alpha",
    "data.path": "data_path",
    "seed": "seed",
    "lr": "lr",
    "momentum": "momentum",
    "batch-size": "batch_size",
    "local-epochs": "local_epochs",
    "subset": "subset",
    "threads": "threads",
    "num-server-rounds": "num_server_rounds",
    "round-timeout": "round_timeout",
}
"""Each run_config key, and the field of `Settings` that it sets."""


class SettingsError(ValueError):
    """A run_config value of the wrong type, or outside its range."""


@dataclass(frozen=True)
class Settings:
    """The app's settings. The defaults suit `digits`: three rounds of three clients reach 0.9 and more.

    `data_alpha` counts for dirichlet alone, so that a sweep over partitions may set it throughout. `subset` caps the
    examples that one client trains on (0: no cap). `threads` are PyTorch's (0: as many as PyTorch likes); one by
    default, for repeatable sums and because this CNN gains nothing from more. `round_timeout` is in seconds.
    """

    data_set: str = "digits"
    data_partition: str = "full"
    data_alpha: float = 0.0
    data_path: str = ""
    seed: int = 1
    lr: float = 0.02
    momentum: float = 0.9
    batch_size: int = 32
    local_epochs: int = 1
    subset: int = 0
    threads: int = 1
    num_server_rounds: int = 3
    round_timeout: float = 3600.0

    def __post_init__(self) -> None:
        """Raise SettingsError for the first value outside its range."""
        _need(self.data_set in DATA_SETS, "data.set", f"one of {', '.join(DATA_SETS)}", self.data_set)
        _need(self.data_partition in KINDS, "data.partition", f"one of {', '.join(KINDS)}", self.data_partition)
        needs_alpha = self.data_partition == "dirichlet"
        _need(self.data_alpha > 0 or not needs_alpha, "data.alpha", "above 0 for dirichlet", self.data_alpha)
        _need(self.seed >= 0, "seed", "0 or more", self.seed)
        _need(self.lr > 0, "lr", "above 0", self.lr)
        _need(0 <= self.momentum < 1, "momentum", "in [0, 1)", self.momentum)
        _need(self.batch_size >= 1, "batch-size", "1 or more", self.batch_size)
        _need(self.local_epochs >= 1, "local-epochs", "1 or more", self.local_epochs)
        _need(self.subset >= 0, "subset", "0 or more", self.subset)
        _need(self.threads >= 0, "threads", "0 or more", self.threads)
        _need(self.num_server_rounds >= 0, "num-server-rounds", "0 or more", self.num_server_rounds)
        _need(self.round_timeout > 0, "round-timeout", "above 0", self.round_timeout)

    @property
    def source(self) -> Source:
        """Which data set, and where it lies."""
        return Source(name=self.data_set, path=self.data_path)

    def share(self, partition_id: int, num_partitions: int) -> Share:
        """Return what one client holds of the training set."""
        alpha = self.data_alpha if self.data_partition == "dirichlet" else 0.0
        return Share(
            kind=self.data_partition,
            partition_id=partition_id,
            num_partitions=num_partitions,
            seed=self.seed,
            alpha=alpha,
            subset=self.subset,
        )

    def recipe(self, seed: int) -> Recipe:
        """Return how to train, visiting the examples in the order that `seed` gives."""
        return Recipe(
            lr=self.lr, momentum=self.momentum, batch_size=self.batch_size, epochs=self.local_epochs, seed=seed
        )


def read(run_config: UserConfig) -> Settings:
    """Return the settings in a Flower run_config; raises SettingsError that names the key."""
    defaults = Settings()
    given = {KEYS[key]: value for key, value in run_config.items() if key in KEYS}
    typed = {field: _typed(field, value, getattr(defaults, field)) for field, value in given.items()}
    return replace(defaults, **typed)


def _typed(field: str, value: object, default: object) -> Any:  # noqa: ANN401 - as the default
    """Return `value` in the type of `default`; a whole number will do where a float is due."""
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if type(value) is type(default):
        return value
    key = next(key for key, name in KEYS.items() if name == field)
    raise SettingsError(f"{key}: must be {type(default).__name__}, not {value!r}")


def _need(ok: bool, key: str, rule: str, value: object) -> None:  # noqa: FBT001 - reads as a sentence
    if not ok:
        raise SettingsError(f"{key}: must be {rule}, not {value!r}")
