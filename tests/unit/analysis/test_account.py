"""The account of rounds made by hand, known to the microsecond: every part is of another length than any other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from deploy.analysis.account.account import Account, account
from deploy.analysis.account.replay import CHANGES
from deploy.analysis.columns import CLIENTS, PARTS, ROUNDS, SHARES, STRAGGLERS, WHAT_IF
from deploy.analysis.reading.dataset import read_dataset
from tests.unit.analysis.handmade import NO_CLOCK, NO_LOG, NO_REPLY, Life, Log, write

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

PLAIN = Life(encode=1, down=2, compute=50, up=2, decode=1)
"""56 ms."""


def ms(row: dict[str, Any], names: tuple[str, ...]) -> dict[str, float]:
    """Return columns of seconds in milliseconds, without those that are 0."""
    return {name: found for name in names if (found := round(1000 * row[f"{name}_s"], 3))}


def parts(found: Account, number: int = 1) -> dict[str, float]:
    return ms(found.rounds.row(by_predicate=pl.col("round") == number, named=True), tuple(PARTS))


def shares(found: Account, client: str, number: int = 1) -> dict[str, float]:
    wanted = (pl.col("client") == client) & (pl.col("round") == number)
    return ms(found.clients.row(by_predicate=wanted, named=True), tuple(SHARES))


def last(found: Account, number: int = 1) -> tuple[str | None, str | None, float | None]:
    """Return who was last, why, and the milliseconds lost."""
    row = found.rounds.row(by_predicate=pl.col("round") == number, named=True)
    return row["last"], row["cause"], None if row["lost_s"] is None else round(1000 * row["lost_s"], 3)


def golden() -> Log:
    """One round of 506 ms: b is last in training, a in evaluation."""
    log = Log()
    log.round(1, 0, 506)
    log.phase(1, "configure", 1, 8)
    log.task(1, "a", 10, PLAIN)
    long = Life(
        encode=2, queue=3, down=5, client_queue=6, client_decode=8, compute=211, rest=1.5, delay=97, up_encode=9,
        up_queue=12, up=13, decode=10,
    )  # fmt: skip
    assert log.task(1, "b", 14, long) == 391.5
    log.task(1, "c", 18, Life(down=2, compute=60, up=2))
    log.phase(1, "aggregate", 395, 412)
    log.phase(1, "configure", 413, 416)
    log.task(1, "a", 420, Life(encode=1.25, down=4, compute=41, up=6, decode=0.5), kind="evaluate")
    log.task(1, "b", 421, Life(compute=20), kind="evaluate")
    log.phase(1, "aggregate", 475, 480)
    log.phase(1, "evaluate", 481, 504)
    return log


GOLDEN = {
    "server": 7 + 3 + 4, "queue": 3 + 6 + 12, "downlink": 5 + 4, "decode": 8 + 10 + 0.5, "compute": 211, "injected": 97,
    "encode": 2 + 9 + 1.25, "uplink": 13 + 6, "aggregate": 17 + 5, "evaluate": 41 + 23,
    "unaccounted": 1 + 2 + 1.5 + 3.5 + 1 + 4 + 2.25 + 1 + 2,
}  # fmt: skip


@pytest.mark.parametrize("source", ["frames", "logs"])
def test_every_millisecond_of_a_round_is_where_it_was_spent(kit: ModuleType, tmp_path: Path, source: str) -> None:
    """Each part as it was made, whether from frames or from logs on clocks that are 1000 s apart."""
    dataset = golden().dataset(kit) if source == "frames" else read_dataset(write(golden(), kit, tmp_path))
    found = account(dataset)
    assert parts(found) == pytest.approx(GOLDEN, abs=0.002)
    assert last(found) == ("b", "compute", 309.5)
    own = {"compute": 50, "evaluate": 41, "network": 4 + 10, "engine": 2 + 1.75, "waiting": 325.5, "server": 55}
    assert shares(found, "a") == pytest.approx(own | {"unaccounted": 16.75}, abs=0.002)
    own = {"compute": 211, "evaluate": 20, "injected": 97, "network": 18, "engine": 4 + 50 + 1, "waiting": 31.75}
    assert shares(found, "b") == pytest.approx(own | {"server": 55, "unaccounted": 18.25}, abs=0.002)
    own = {"compute": 60, "network": 4, "engine": 8, "waiting": 309.5 + 52.75, "server": 55}
    assert shares(found, "c") == pytest.approx(own | {"unaccounted": 16.75}, abs=0.002)
    assert found.stragglers.filter(pl.col("condition") == 0).select("client", "last", "compute").rows() == [
        ("a", 0, 0), ("b", 1, 1), ("c", 0, 0),
    ]  # fmt: skip


def test_the_tables_are_as_promised(kit: ModuleType) -> None:
    """Names, types and order of all columns, also of a run without a round."""
    for log in (golden(), Log()):
        found = account(log.dataset(kit))
        for table, frame in (
            (ROUNDS, found.rounds), (CLIENTS, found.clients), (STRAGGLERS, found.stragglers), (WHAT_IF, found.what_if),
        ):  # fmt: skip
            assert dict(frame.schema) == table.schema


def one(kit: ModuleType, life: Life, **more: Any) -> Account:
    """Return the account of a round from 0 to 1 s in which one instruction was handed out at 100 ms."""
    log = Log()
    log.round(1, 0, 1000)
    log.task(1, "a", 100, life, **more)
    return account(log.dataset(kit))


def test_what_the_link_injected_is_no_network(kit: ModuleType) -> None:
    """The link's part of both ways is injected, as the app's delay is; the ways have the rest."""
    found = one(kit, Life(down=5, link_down=20, compute=100, delay=50, up=7, link_up=40))
    assert parts(found) == {"downlink": 5, "uplink": 7, "compute": 100, "injected": 110, "unaccounted": 778}
    assert found.clients["network_s"].item() == pytest.approx(0.012)


def test_without_a_common_clock_the_ways_are_halves_of_what_is_sure(kit: ModuleType) -> None:
    """Both together are the round trip less the client's time; neither can be longer, so that is how sure they are."""
    found = one(kit, Life(down=5, link_down=20, compute=100, up=9), **NO_CLOCK)
    assert parts(found) == {"downlink": 7, "uplink": 7, "compute": 100, "injected": 20, "unaccounted": 866}
    assert found.rounds["uncertainty_s"].item() == pytest.approx(0.007)


def test_a_wrong_clock_moves_time_between_the_ways_alone(kit: ModuleType) -> None:
    """A way may come out shorter than nothing; it is not cut off, and the sum is right."""
    found = one(kit, Life(down=5, compute=100, up=9), down_s=-0.003, up_s=0.017)
    assert parts(found) == {"downlink": -3, "uplink": 17, "compute": 100, "unaccounted": 886}


def test_without_the_clients_log_its_time_is_unaccounted_for(kit: ModuleType) -> None:
    """Nothing is invented: the server's own steps are known, and no cause is named."""
    life = Life(encode=3, queue=4, down=5, compute=100, up=9, decode=6)
    log = Log()
    log.round(1, 0, 1000)
    log.task(1, "a", 100, life, **NO_LOG)
    log.task(1, "b", 100, PLAIN)
    found = account(log.dataset(kit))
    assert parts(found) == {"encode": 3, "queue": 4, "decode": 6, "unaccounted": 987}
    assert found.rounds["uncertainty_s"].item() is None
    assert last(found) == ("a", None, 127 - 56)
    assert found.rounds["logged"].to_list() == [False]


def test_of_what_no_log_tells_no_replay_is_made(kit: ModuleType) -> None:
    """Nobody knows what of the silent client's time was injected; when its reply was there is known all the same."""
    log = Log()
    log.round(1, 0, 300)
    log.task(1, "a", 100, Life(down=5, compute=100, up=9))
    log.task(1, "b", 100, Life(down=5, compute=50, delay=20, up=9), **NO_LOG)
    found = account(log.dataset(kit))
    assert found.rounds["logged"].to_list() == [True]  # b was not waited for
    saved = {row["host"] or row["change"]: row["saved_s"] for row in found.what_if.filter(condition=0).to_dicts()}
    hosts = {"a": pytest.approx(0.03), "b": 0.0}
    assert saved == dict.fromkeys(change.name for change in CHANGES) | hosts


def test_a_torn_log_leaves_what_it_tells(kit: ModuleType) -> None:
    """Of a client that only told when its app was called and had returned, that counts."""
    torn = {name: value for name, value in NO_LOG.items() if name != "compute_s"}
    assert parts(one(kit, Life(down=5, compute=100, up=9), **torn)) == {"compute": 100, "unaccounted": 900}


def test_what_a_broken_connection_cost_is_on_the_way(kit: ModuleType) -> None:
    """Sent once more 300 ms later, an instruction did not wait for its turn so long; nor did a reply."""
    life = Life(queue=310, down=5, compute=100, up_queue=80, up=7)
    found = one(kit, life, flags="below uncertainty; resent", round_trip_s=(300 + life.round_trip) / 1000)
    assert parts(found) == {"queue": 10, "downlink": 305, "compute": 100, "uplink": 87, "unaccounted": 498}


def test_a_round_that_never_ended_has_no_account(kit: ModuleType) -> None:
    """Its row stays, with nulls; no client has a share of it, and nobody was last."""
    log = Log()
    log.round(1, 0, 100)
    log.task(1, "a", 10, PLAIN)
    log.round(2, 100, None)
    log.task(2, "a", 110, PLAIN)
    found = account(log.dataset(kit, status="unfinished"))
    cut = found.rounds.row(1, named=True)
    assert [cut[f"{part}_s"] for part in PARTS] == [None] * len(PARTS)
    assert (cut["last"], cut["round_s"]) == (None, None)
    assert found.clients["round"].to_list() == [1]
    assert found.what_if.is_empty()


def test_where_a_client_never_replied_nobody_was_last(kit: ModuleType) -> None:
    """The round waited for something else than the last reply: that wait is unaccounted for, with the others' parts."""
    log = Log()
    log.round(1, 0, 1000)
    log.task(1, "lost", 10, PLAIN, **NO_REPLY)
    log.task(1, "a", 14, PLAIN)
    log.phase(1, "aggregate", 900, 990)
    found = account(log.dataset(kit))
    assert parts(found) == {
        "server": 4, "downlink": 2, "decode": 1, "compute": 50, "encode": 1, "uplink": 2, "aggregate": 90,
        "unaccounted": 850,
    }  # fmt: skip
    assert last(found) == (None, None, None)
    assert shares(found, "lost") == {"server": 90, "unaccounted": 910}
    assert shares(found, "a") == {"compute": 50, "network": 4, "engine": 6, "server": 90, "unaccounted": 850}
    assert found.stragglers.is_empty()


def test_a_reply_that_came_too_late_was_not_waited_for(kit: ModuleType) -> None:
    """A strategy with a time-out went on: the late reply is none of this round, and opens no leg."""
    log = Log()
    log.round(1, 0, 300)
    log.task(1, "a", 10, PLAIN)
    log.task(1, "late", 11, Life(compute=500))
    log.round(2, 300, 600)
    log.task(2, "a", 310, PLAIN)
    found = account(log.dataset(kit))
    assert parts(found, 1) == parts(found, 2)
    assert last(found, 1) == (None, None, None)
    assert last(found, 2) == ("a", None, None)


def test_waves_of_messages_are_legs_of_their_own(kit: ModuleType) -> None:
    """Of several waves of training each has its last client; who was last in the longest, was last in the round."""
    log = Log()
    log.round(1, 0, 1000)
    log.task(1, "a", 10, Life(compute=20), kind="train.keys")
    end = log.task(1, "b", 10, Life(compute=30), kind="train.keys")
    log.task(1, "a", end, Life(compute=300, delay=60), kind="train")
    end = log.task(1, "b", end, Life(compute=200), kind="train")
    log.task(1, "a", 500, Life(compute=4), kind="train.unmask")
    log.task(1, "b", 500, Life(down=5), kind="train.unmask")
    found = account(log.dataset(kit))
    assert parts(found) == {"compute": 330, "injected": 60, "downlink": 5, "unaccounted": 605}
    assert last(found) == ("a", "compute", 160)
    assert shares(found, "a") == {"compute": 324, "injected": 60, "waiting": 11, "unaccounted": 605}


def test_a_wave_that_nobody_answered_takes_none_of_the_next_ones_time(kit: ModuleType) -> None:
    """The instructions of the second wave were lost: the third is a leg, and the time between stays."""
    log = Log()
    log.round(1, 0, 1000)
    log.task(1, "a", 10, Life(compute=20))
    log.task(1, "a", 100, Life(compute=20), **NO_REPLY)
    log.task(1, "b", 200, Life(compute=30), kind="evaluate")
    found = account(log.dataset(kit))
    assert parts(found)["evaluate"] == 30
    assert parts(found)["compute"] == 20


def test_a_quick_reply_ends_no_wave(kit: ModuleType) -> None:
    """While others are still handed theirs, one replies: what holds a leg open is any of its tasks, not the last."""
    log = Log()
    log.round(1, 0, 500)
    log.task(1, "a", 10, Life(compute=300))
    log.task(1, "quick", 12, Life(compute=8))
    log.task(1, "b", 60, Life(compute=100))
    found = account(log.dataset(kit))
    assert parts(found) == {"compute": 300, "unaccounted": 200}
    assert shares(found, "b") == {"compute": 100, "engine": 50, "waiting": 150, "unaccounted": 200}


def test_a_client_that_is_asked_again_while_others_work_has_all_its_turns(kit: ModuleType) -> None:
    """An app that gives the fast one its next instruction at once: the leg is b's, or two of a's with a pause."""
    log = Log()
    log.round(1, 0, 1000)
    first = log.task(1, "a", 10, Life(compute=200))
    log.task(1, "b", 10, Life(compute=250))
    log.phase(1, "aggregate", first, first + 7)
    log.task(1, "a", first + 9, Life(compute=200))
    found = account(log.dataset(kit))
    assert parts(found) == {"compute": 400, "aggregate": 7, "unaccounted": 593}
    assert shares(found, "b") == {"compute": 250, "waiting": 159, "unaccounted": 591}


def test_of_instructions_at_once_to_one_client_the_last_counts(kit: ModuleType) -> None:
    """The second waits in the client's queue while the app is busy with the first: that time is not counted twice."""
    log = Log()
    log.round(1, 0, 1000)
    log.task(1, "a", 10, Life(compute=200))
    log.task(1, "a", 11, Life(client_queue=199, compute=100))
    assert parts(account(log.dataset(kit))) == {"server": 1, "queue": 199, "compute": 100, "unaccounted": 700}


def test_an_error_is_a_reply(kit: ModuleType) -> None:
    """What the app did until it raised is its time, and it may be last by that."""
    found = one(kit, Life(down=1, compute=70, up=1), error="ValueError: no")
    assert parts(found) == {"downlink": 1, "compute": 70, "uplink": 1, "unaccounted": 928}
    assert last(found)[0] == "a"


def test_a_round_in_which_nothing_was_sent_is_the_servers(kit: ModuleType) -> None:
    """Phases of any name count, one inside another once, and one that spans the whole round is not cut."""
    log = Log()
    log.round(1, 0, 100)
    log.phase(1, "aggregate", 10, 50)
    log.phase(1, "evaluate", 20, 30)
    log.phase(1, "publish", 60, 63)
    log.round(2, 100, 200)
    log.phase(2, "evaluate", 100, 200)
    found = account(log.dataset(kit))
    assert parts(found, 1) == {"aggregate": 40, "server": 3, "unaccounted": 57}
    assert parts(found, 2) == {"evaluate": 100}
    assert found.clients.is_empty()


def test_the_servers_work_while_clients_are_busy_is_not_on_the_path(kit: ModuleType) -> None:
    """Only what a phase does before, between and after the legs made the round longer."""
    log = Log()
    log.round(1, 0, 300)
    log.phase(1, "evaluate", 5, 90)
    log.task(1, "a", 10, Life(compute=100))
    log.phase(1, "aggregate", 100, 125)
    assert parts(account(log.dataset(kit))) == {"compute": 100, "evaluate": 5, "aggregate": 15, "unaccounted": 180}


@pytest.mark.parametrize(
    ("life", "cause"),
    [
        (Life(compute=90, delay=20, down=5), "compute"),
        (Life(compute=50, delay=40, down=5), "injected"),
        (Life(compute=50, link_down=9, link_up=31, down=5, up=30), "injected"),
        (Life(compute=50, down=25, up=35, client_queue=50), "network"),
        (Life(compute=50, client_queue=30, queue=20, decode=11, down=25, up=35), "engine"),
    ],
)
def test_the_cause_is_what_was_most_above_the_others(kit: ModuleType, life: Life, cause: str) -> None:
    """Above their median, not the longest in itself: everybody computes for 50 ms here."""
    log = Log()
    log.round(1, 0, 300)
    for client in ("a", "b", "c"):
        log.task(1, client, 10, Life(compute=50, down=2, up=2))
    log.task(1, "x", 10, life)
    assert last(account(log.dataset(kit)))[:2] == ("x", cause)


def test_stragglers_are_counted_in_rounds_that_mean_something(kit: ModuleType) -> None:
    """Neither the warm-up's nor control rounds; by condition, and over all."""
    log = Log()
    for number, (slow, more) in enumerate(
        [("a", {}), ("b", {"control": True}), ("b", {"condition": None, "trial": -1}), ("a", {}), ("b", {})], 1
    ):
        at = 1000 * number
        log.round(number, at, at + 900, **more)
        trial = more.get("trial", 0)
        for client in ("a", "b"):
            log.task(number, client, at + 10, Life(compute=100 + 50 * (client == slow)), trial=trial)
    found = account(log.dataset(kit)).stragglers
    assert found.select("condition", "client", "rounds", "last", "compute").rows() == [
        (0, "a", 3, 2, 2), (0, "b", 3, 1, 1), (None, "a", 3, 2, 2), (None, "b", 3, 1, 1),
    ]  # fmt: skip
    assert found["lost_s"].to_list() == pytest.approx([0.1, 0.05, 0.1, 0.05])


def test_rounds_that_settle_are_marked_and_counted_nowhere(kit: ModuleType) -> None:
    """A first round three times as long as the others: its row stays, no straggler is counted in it."""
    log, at = Log(), 0
    for number in range(1, 9):
        long = 300 if number == 1 else 100
        log.round(number, at, at + long)
        for client in ("a", "b"):
            log.task(number, client, at + 5, Life(compute=long - 40 + 10 * (client == "b") + number % 3))
        at += long
    found = account(log.dataset(kit))
    assert found.rounds["settling"].to_list() == [True] + [False] * 7
    assert found.stragglers["rounds"].to_list() == [7] * 4
    assert found.what_if["rounds"].unique().to_list() == [8]


def test_by_chance_each_of_those_that_trained_is_last_as_often(kit: ModuleType) -> None:
    """Where a strategy chooses who trains, that is not one in all clients: a was one of two, of three, and alone."""
    log = Log()
    for number, who in enumerate(("ab", "abc", "a"), 1):
        log.round(number, 1000 * number, 1000 * number + 1000)
        for place, client in enumerate(who):
            log.task(number, client, 1000 * number + 10, Life(compute=100 + place))
    rows = account(log.dataset(kit)).stragglers.filter(condition=0)
    shares = {row["client"]: (row["rounds"], row["share"], row["chance"]) for row in rows.to_dicts()}
    assert shares == {
        "a": (3, pytest.approx(1 / 3), pytest.approx((1 / 2 + 1 / 3 + 1) / 3)),
        "b": (2, 0.5, pytest.approx((1 / 2 + 1 / 3) / 2)),
        "c": (1, 1.0, pytest.approx(1 / 3)),
    }
