"""The tables that sum up a run, which exist as files only; and the list of all that are written."""

from __future__ import annotations

from deploy.analysis.columns import (
    CLIENTS,
    INT,
    MESSAGES,
    OFFSETS,
    PHASES,
    ROUNDS,
    SAMPLES,
    STRAGGLERS,
    TASKS,
    TRIPS,
    WHAT_IF,
    B,
    Column,
    F,
    S,
    Table,
)

_CONDITION = Column("condition", INT, "", "the number of its combination of swept values")

TRIALS = Table(
    "trials",
    "one trial: what was planned, and what came of it",
    (
        Column("trial", INT, "", "its place in the plan, from 0"),
        _CONDITION,
        Column("repeat", INT, "", "which of the trials of its condition"),
        Column("schedule", INT, "", "trials with the same draw the same delays"),
        Column("seed", INT, "", "where weights and data order start from"),
        Column("settings", S, "", "the swept values"),
        Column("probability", F, "", "that a client's round is delayed; 0 without a delay"),
        Column("status", S, "", "complete, failed, unfinished or not started"),
        Column("rounds", INT, "", "those that began"),
        Column("total_s", F, "s", "first round's start to last round's end, or to the target; null unless complete"),
        Column("target_s", F, "s", "from the first round's start until the target was reached"),
        Column("censored", B, "", "complete without reaching its target: total_s is a lower bound"),
        Column("accuracy", F, "", "of the last evaluation"),
    ),
)

CONDITIONS = Table(
    "conditions",
    "one combination of swept values: means over its complete trials that reached their target, if there is one",
    (
        _CONDITION,
        Column("label", S, "", "the swept values, as figures write them"),
        Column("planned", INT, "", "trials"),
        Column("complete", INT, "", "of them, those that were completed"),
        Column("censored", INT, "", "of those, the ones that did not reach their target"),
        Column("rounds", F, "", "of a trial"),
        Column("accuracy", F, "", "of the last evaluation"),
        Column("accuracy_low", F, "", "where its 95 % confidence interval begins; null for one trial"),
        Column("accuracy_high", F, "", "where it ends"),
        Column("total_s", F, "s", "a trial's time"),
        Column("std_s", F, "s", "its standard deviation; null for one trial"),
        Column("low_s", F, "s", "where the 95 % confidence interval of total_s begins; null for one trial"),
        Column("high_s", F, "s", "where it ends"),
        Column("method", S, "", "by which method the interval was made"),
        Column("expected_s", F, "s", "what theory expects of total_s"),
        Column("expected_low_s", F, "s", "if theory holds, the mean lies above in 95 of 100 cases"),
        Column("expected_high_s", F, "s", "and below this"),
        Column("p_value", F, "", "how rarely the mean is as far from theory as it was, if theory holds"),
        Column("agrees", B, "", "whether that is no reason to doubt theory, over all conditions"),
        Column("drawn_s", F, "s", "what theory expects with the delays that were in fact drawn"),
        Column("ideal_s", F, "s", "compute and injected time of each round's slowest client"),
        Column("difference_s", F, "s", "total_s minus expected_s"),
        Column("difference_pct", F, "%", "of expected_s"),
        Column("unexplained_pct", F, "%", "total_s beyond drawn_s, of drawn_s"),
    ),
)


def _interval(name: str, unit: str, about: str) -> tuple[Column, ...]:
    return (
        Column(name, F, unit, f"{about}: the median"),
        Column(name.replace("_ms", "_low_ms"), F, unit, "where its 95 % interval begins; null below 6 values"),
        Column(name.replace("_ms", "_high_ms"), F, unit, "where it ends"),
    )


def _way(way: str, what: str) -> tuple[Column, ...]:
    return (
        *_interval(f"{way}_natural_ms", "ms", f"{what}, without what was injected"),
        *_interval(f"{way}_transfer_ms", "ms", f"{what}, with it"),
        Column(f"{way}_uncertainty_ms", F, "ms", "what all of the client's one-way times may be off by, alike"),
        Column(f"{way}_requested_ms", F, "ms", "the injected delay that was asked for"),
        Column(f"{way}_applied_ms", F, "ms", "as the layer says it applied it"),
        Column(f"{way}_measured_ms", F, "ms", "as it was proved, or as the layer held it"),
        Column(f"{way}_rate_mbit", F, "Mbit/s", "the injected rate"),
        Column(f"{way}_goodput_mbit", F, "Mbit/s", "of the messages, with all that was injected"),
        Column(f"{way}_retransmitted", INT, "", "segments that were sent again"),
        Column(f"{way}_overflowed", INT, "", "packets lost because a queue of the layer was full"),
    )


NETWORK = Table(
    "network",
    "the network of one client in one condition, control rounds apart, by messages of training and idle exchanges",
    (
        Column("client", S, "", "the client's name"),
        Column("condition", INT, "", "the number of its combination of swept values; null: the whole run"),
        Column("control", B, "", "only control rounds, else only the others; of the whole run, all are in"),
        Column("layer", S, "", "who injected: relay or kernel; null: nobody"),
        Column("messages", INT, "", "in both directions"),
        Column("flagged", S, "", "of them, how many have each flag: `flag: count`, joined by `; `"),
        *_interval("natural_rtt_ms", "ms", "round trips of the idle connection, without what was injected"),
        *_way("down", "the instruction's way"),
        *_way("up", "the reply's way"),
    ),
)

HOSTS = Table(
    "hosts",
    "one host",
    (
        Column("host", S, "", "its name"),
        Column("role", S, "", "server or client"),
        Column("hostname", S, "", "its own name of itself"),
        Column("platform", S, "", "kernel and machine"),
        Column("machine", S, "", "instruction set"),
        Column("cpu", S, "", "processor"),
        Column("cpus", INT, "", "how many processors"),
        Column("memory_mb", INT, "MB", "all of its memory"),
        Column("python_version", S, "", "of the Python that ran the processes"),
        Column("versions", S, "", "of packages there, as `name version`, joined by `; `"),
        Column("processes", INT, "", "that it had, with those that were started again"),
    ),
)

CLOCKS = Table(
    "clocks",
    "the clocks of one process of a client against the server's",
    (
        Column("client", S, "", "the client's name"),
        Column("process", INT, "", "which process of it, from 0"),
        Column("source", S, "", "whose exchanges bound it most: gRPC, SSH or both; null: it is not known"),
        Column("grpc_exchanges", INT, "", "comparisons over the experiment's own connection"),
        Column("ssh_exchanges", INT, "", "comparisons by the controller"),
        Column("uncertainty_s", F, "s", "of the offset of the monotonic clocks, either way; the median"),
        Column("mono_drift_ppm", F, "ppm", "by how much the client's monotonic clock is faster"),
        Column("drift_uncertainty_ppm", F, "ppm", "a bound of the drift's error"),
        Column("wall_offset_first_s", F, "s", "client's time of day minus the server's, at the first exchange"),
        Column("wall_offset_last_s", F, "s", "and at the last"),
        Column("wall_drift_ppm", F, "ppm", "by how much its time of day is faster, without steps"),
        Column("steps", INT, "", "how often one of its clocks was set, or stood still"),
    ),
)

TABLES = (
    ROUNDS, PHASES, CLIENTS, STRAGGLERS, WHAT_IF, TASKS, MESSAGES, NETWORK, HOSTS, SAMPLES, CLOCKS, OFFSETS, TRIPS,
    CONDITIONS, TRIALS,
)  # fmt: skip
"""What is written beside dataset.parquet."""
