from dataclasses import fields

import pytest

from flclient.apps.cifar10 import settings
from flclient.apps.cifar10.settings import KEYS, Settings, SettingsError


def test_every_setting_has_a_key() -> None:
    assert sorted(KEYS.values()) == sorted(field.name for field in fields(Settings))


def test_an_empty_run_config_gives_the_defaults() -> None:
    assert settings.read({}) == Settings()


def test_given_values_are_taken_and_other_keys_left_alone() -> None:
    """A whole number will do for a float, as YAML writes `lr: 1`."""
    read = settings.read({"data.set": "cifar10", "lr": 1, "batch-size": 8, "somebody-elses": "x"})
    assert read == Settings(data_set="cifar10", lr=1.0, batch_size=8)
    assert type(read.lr) is float


def test_alpha_counts_for_dirichlet_alone() -> None:
    """A sweep over partitions sets alpha throughout: shares that do not use it are the same share."""
    assert settings.read({"data.partition": "iid", "data.alpha": 0.5}).share(0, 3).alpha == 0.0
    assert settings.read({"data.partition": "dirichlet", "data.alpha": 0.5}).share(0, 3).alpha == 0.5


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("data.set", "mnist", "one of digits, cifar10, not 'mnist'"),
        ("data.partition", "idd", "one of full, iid, dirichlet, not 'idd'"),
        ("data.partition", "dirichlet", "above 0 for dirichlet, not 0.0"),
        ("seed", -1, "0 or more, not -1"),
        ("seed", 1.5, "must be int, not 1.5"),
        ("lr", 0, "above 0, not 0.0"),
        ("lr", "fast", "must be float, not 'fast'"),
        ("momentum", 1.0, r"in \[0, 1\), not 1.0"),
        ("batch-size", 0, "1 or more, not 0"),
        ("batch-size", True, "must be int, not True"),
        ("local-epochs", 0, "1 or more, not 0"),
        ("round-timeout", 0, "above 0, not 0.0"),
    ],
)
def test_wrong_values_are_refused(key: str, value: bool | float | str, rule: str) -> None:  # noqa: FBT001
    with pytest.raises(SettingsError, match=rule):
        settings.read({key: value})
