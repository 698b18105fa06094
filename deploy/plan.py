"""The plan of a campaign: which trials run, in which order, and what each process must know of them. No I/O.

Everything here follows from the playbook and the clients' names alone: the same two give the same plan anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from deploy.app import ROUNDS
from deploy.manifest import PlannedTrial
from flcommon.job import PREPARE_TIMEOUT_S, WARMUP, AppRef, ClientJob, ClientTrial, ServerJob, ServerTrial

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from deploy.app import App
    from deploy.links import Rule
    from deploy.playbook import Playbook
    from deploy.settings import Condition, Settings
    from flcommon.delay import Delay
    from flcommon.job import ConfigValue, Shaping, Tls
    from flcommon.link import Link

_ORDER_STREAM = 1
WITHOUT_CONTROLLER_S = 86_400.0
"""For so long a campaign waits whose clients hold for want of a controller."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A playbook's trials in the order of execution, for these clients; `shaping` for those that are given a link."""

    playbook: Playbook
    clients: tuple[str, ...]
    trials: tuple[PlannedTrial, ...]
    shaping: Mapping[str, Shaping] = field(default_factory=dict)

    @property
    def app(self) -> AppRef:
        """Where the app's two halves are."""
        return self.playbook.app.ref

    @property
    def warmup(self) -> PlannedTrial | None:
        """The first trial once more, for the warm-up: fewer rounds, nothing injected, no target; None if not asked for.

        None too for an app whose number of rounds cannot be set: its warm-up would be a whole trial.
        """
        rounds, first = self.playbook.warmup_rounds, self.trials[0]
        if not rounds or not self.playbook.app.takes_rounds:
            return None
        natural: dict[str, Any] = {"delay": None, "links": {}, "control_every": 0}
        config = {**first.run_config, ROUNDS: rounds}
        return msgspec.structs.replace(first, index=WARMUP, rounds=rounds, run_config=config, stop=None, **natural)

    def server_job(self, campaign: str, *, host: str, listen: str, tls: Tls | None = None) -> ServerJob:
        """Return the server's job; `listen` is `address:port` on the server host; no `tls`: whoever comes is let in."""
        return ServerJob(
            campaign=campaign,
            host=host,
            app=self.app,
            transport=self.playbook.transport,
            tls=tls,
            listen=listen,
            clients=self.clients,
            trials=tuple(_server_trial(trial) for trial in self.trials),
            warmup=_server_trial(warmup) if (warmup := self.warmup) else None,
            pull_every_s=self.playbook.pull_every_s,
            probe=self.playbook.probe,
            sample_every_s=self.playbook.sample_every_s,
            prepare_timeout_s=WITHOUT_CONTROLLER_S if self._holds else PREPARE_TIMEOUT_S,
        )

    @property
    def _holds(self) -> bool:
        """Whether a client may have to wait for a controller: its kernel's link is taken off while none is there."""
        return any(own.layer == "kernel" for own in self.shaping.values())

    def client_job(self, campaign: str, *, host: str, server_address: str, tls: Tls | None = None) -> ClientJob:
        """Return the job of the client named `host`; raises ValueError if the plan has no such client."""
        if host not in self.clients:
            raise ValueError(f"the plan has no client {host!r}")
        return ClientJob(
            campaign=campaign,
            host=host,
            app=self.app,
            transport=self.playbook.transport,
            tls=tls,
            server_address=server_address,
            delay_seed=self.playbook.seed,
            node_config={"partition-id": self.clients.index(host), "num-partitions": len(self.clients)},
            trials=tuple(_client_trial(trial, host) for trial in self.trials),
            warmup=_client_trial(warmup, host) if (warmup := self.warmup) else None,
            shaping=self.shaping.get(host),
            sample_every_s=self.playbook.sample_every_s,
        )

    def expected_injected_s(self) -> float:
        """Return how long the injected delays are expected to hold up all trials together, in seconds.

        A round waits for its slowest client, here with equal computing times. Trials that `stop` early take less;
        those whose number of rounds only the app knows are left out. What links add is not known beforehand.
        """
        a_round: dict[Delay, float] = {}
        for trial in self.trials:
            if trial.delay is not None and trial.delay not in a_round:
                a_round[trial.delay] = trial.delay.expected_slowest_s(len(self.clients))
        return sum(
            trial.rounds * trial.injected_share * a_round[trial.delay]
            for trial in self.trials
            if trial.delay is not None
        )


def make_plan(
    playbook: Playbook,
    clients: Sequence[str],
    rules: Mapping[str, Rule] | None = None,
    shaping: Mapping[str, Shaping] | None = None,
) -> Plan:
    """Return the plan: every condition once in each repeat, in the playbook's order, blocks of one repeat.

    `rules` are the playbook's, by client (`deploy.links.assigned`), `shaping` says by which layer each client's link
    comes. Raises ValueError if there is no client, or a name is there twice.
    """
    if not clients or len(set(clients)) < len(clients):
        raise ValueError(f"a plan needs clients with different names, not {list(clients)}")
    links = [_links(condition.settings, clients, rules or {}) for condition in playbook.conditions]
    trials = [
        msgspec.structs.replace(trial, links=links[trial.condition])
        for repeat in range(playbook.repeats)
        for trial in _block(playbook, repeat)
    ]
    return Plan(playbook=playbook, clients=tuple(clients), trials=tuple(trials), shaping=shaping or {})


def _links(settings: Settings, clients: Sequence[str], rules: Mapping[str, Rule]) -> dict[str, Link]:
    """Return the link of each client that has one: its rule's, else the condition's."""
    asked = {name: rules[name].asked if name in rules else settings.link for name in clients}
    return {name: one.link for name, one in asked.items() if one is not None}


def learning_seed(seed: int, repeat: int) -> int:
    """Return where weights and data order start from: 31 bits, the same for all conditions of a repeat."""
    return int(np.random.SeedSequence([seed, repeat]).generate_state(1)[0]) & 0x7FFFFFFF


def _block(playbook: Playbook, repeat: int) -> list[PlannedTrial]:
    """Return the trials of one repeat in the order of execution."""
    numbers = _schedule_numbers(playbook.conditions)
    trials = [
        _trial(playbook, condition, repeat, repeat * (max(numbers) + 1) + numbers[condition])
        for condition in range(len(playbook.conditions))
    ]
    return trials if playbook.order == "listed" else _shuffled(trials, playbook.seed, repeat)


def _schedule_numbers(conditions: Sequence[Condition]) -> list[int]:
    """Number the combinations of swept delay.* and link.* values, and return each condition's number.

    What is injected is drawn anew for another delay or link, and is the same for whatever else differs.
    """
    numbers: dict[str, int] = {}
    keys = [
        repr({key: value for key, value in condition.values.items() if key.startswith(("delay.", "link."))})
        for condition in conditions
    ]
    return [numbers.setdefault(key, len(numbers)) for key in keys]


def _shuffled(trials: list[PlannedTrial], seed: int, repeat: int) -> list[PlannedTrial]:
    """Sort by random numbers straight from PCG64, whose stream is frozen; that of numpy's `shuffle` is not."""
    stream = np.random.PCG64(np.random.SeedSequence([seed, repeat, _ORDER_STREAM]))
    ranks = stream.random_raw(len(trials)).tolist()
    return [trial for _, trial in sorted(zip(ranks, trials, strict=True), key=lambda pair: pair[0])]


def _trial(playbook: Playbook, condition: int, repeat: int, schedule: int) -> PlannedTrial:
    chosen = playbook.conditions[condition]
    seed = learning_seed(playbook.seed, repeat)
    return PlannedTrial(
        index=repeat * len(playbook.conditions) + condition,
        condition=condition,
        repeat=repeat,
        schedule=schedule,
        seed=seed,
        rounds=playbook.app.rounds(chosen.settings.rounds),
        settings=chosen.values,
        run_config=_run_config(playbook.app, chosen.settings, seed),
        delay=chosen.settings.delay,
        stop=chosen.settings.stop,
        control_every=playbook.control_every,
    )


def _run_config(app: App, settings: Settings, seed: int) -> dict[str, ConfigValue]:
    """Return what the app gets: its own keys and the playbook's, the data's, and the two that the toolkit sets."""
    data = msgspec.to_builtins(settings.data) if settings.data is not None else {}
    flat = {f"data.{key}": value for key, value in data.items() if value is not None}
    return app.run_config({**settings.run_config, **flat}, settings.rounds, seed)


def _server_trial(trial: PlannedTrial) -> ServerTrial:
    return ServerTrial(
        index=trial.index,
        seed=trial.seed,
        run_config=trial.run_config,
        control_every=trial.control_every,
        rounds=trial.rounds,
        stop=trial.stop,
    )


def _client_trial(trial: PlannedTrial, host: str) -> ClientTrial:
    return ClientTrial(
        index=trial.index,
        seed=trial.seed,
        run_config=trial.run_config,
        control_every=trial.control_every,
        schedule=trial.schedule,
        delay=trial.delay,
        link=trial.links.get(host),
    )
