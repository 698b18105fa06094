"""What a way is in tc's words, what tc says of it, and how long its queue must be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flclient.link import tc
from flcommon.link import NATURAL, Burst, Way

SHARES = st.floats(0.001, 100)


@st.composite
def ways(draw):
    delay_ms = draw(st.floats(0, 60_000))
    return Way(
        delay_ms=delay_ms,
        jitter_ms=draw(st.floats(0, 1)) * delay_ms,
        distribution=draw(st.sampled_from(["uniform", "normal", "pareto", "paretonormal"])),
        rate_mbit=draw(st.none() | st.floats(0.01, 30_000)),
        duplicate_pct=draw(st.just(0) | SHARES),
        reorder_pct=draw(st.just(0) | SHARES) if delay_ms else 0,
        **draw(
            st.just({})
            | st.fixed_dictionaries({"loss_pct": SHARES})
            | st.fixed_dictionaries({"loss_burst": st.builds(Burst, p_pct=SHARES, r_pct=SHARES)})
        ),
    )


def value(word: str) -> float:
    return float(word.rstrip("msbit%"))


def after(words: list[str], word: str) -> float:
    return value(words[words.index(word) + 1])


@given(ways())
def test_every_way_is_said_in_whole_words(way):
    """No word has a space or is a number that tc does not read, and what is not asked for is not said."""
    words = tc.netem(way, 1000)
    assert not any(" " in word or "inf" in word or "nan" in word for word in words)
    assert after(words, "delay") == pytest.approx(way.delay_ms, abs=1e-6)
    assert ("loss" in words) == bool(way.loss_pct or way.loss_burst)
    assert ("reorder" in words) == bool(way.reorder_pct)
    assert ("duplicate" in words) == bool(way.duplicate_pct)
    assert ("distribution" in words) == tc.needs_table(way)


@given(ways())
def test_packets_keep_their_order(way):
    """There is always a rate: netem sends packets one after the other only where it has one."""
    assert after(tc.netem(way, 1000), "rate") == pytest.approx((way.rate_mbit or tc.ORDERED_MBIT) * 1e6, abs=1)


@given(ways(), st.floats(1, 100_000))
def test_the_queue_has_room_for_what_is_under_way(way, line_mbit):
    """All that a sender can put on the link until the first of it has arrived, and more."""
    frames_per_s = (way.rate_mbit or line_mbit) * 1e6 / 8 / 1514
    room = tc.limit(way, line_mbit)
    assert room >= min(frames_per_s * (way.delay_ms + way.jitter_ms) / 1e3, 2**32 - 1)
    assert tc.QUEUE_PACKETS <= room <= 2**32 - 1


@given(ways())
def test_what_tc_says_is_read_in_the_units_of_a_way(way):
    """Of the JSON that tc prints for a way, as iproute2 6.1 does, its values come back."""
    said = {
        "limit": 1000,
        "delay": {"delay": way.delay_ms / 1e3, "jitter": way.jitter_ms / 1e3, "correlation": 0},
        "rate": {"rate": int((way.rate_mbit or tc.ORDERED_MBIT) * 1e6 / 8), "packetoverhead": 0},
        "ecn": False,
        "gap": 1 if way.reorder_pct else 0,
        "reorder": {"reorder": (way.reorder_pct or 5) / 100, "correlation": 0},  # an earlier one's stays in sight
    }
    if way.loss_pct:
        said["loss-random"] = {"loss": way.loss_pct / 100, "correlation": 0}
    if way.loss_burst:
        said["loss-gemodel"] = {
            "p": way.loss_burst.p_pct / 100,
            "r": way.loss_burst.r_pct / 100,
            "1-h": way.loss_burst.bad_loss_pct / 100,
            "1-k": way.loss_burst.good_loss_pct / 100,
        }
    if way.duplicate_pct:
        said["duplicate"] = {"duplicate": way.duplicate_pct / 100, "correlation": 0}
    found = tc.applied(said)
    for name in ("delay_ms", "jitter_ms", "loss_pct", "rate_mbit", "reorder_pct", "duplicate_pct"):
        assert found.get(name, 0) == pytest.approx(getattr(way, name) or 0, rel=1e-3)
    if way.loss_burst:
        assert found["loss_burst.p_pct"] == pytest.approx(way.loss_burst.p_pct, rel=1e-4)
        assert found["loss_burst.r_pct"] == pytest.approx(way.loss_burst.r_pct, rel=1e-4)


def test_an_example_in_full():
    """As a reader of tc-netem(8) would write it."""
    way = Way(delay_ms=40, jitter_ms=10, distribution="normal", loss_burst=Burst(p_pct=1, r_pct=20), rate_mbit=5)
    assert " ".join(tc.netem(way, 1000)) == (
        "netem limit 100034 delay 40.000000ms 10.000000ms distribution normal"
        " loss gemodel 1% 20% 100% 0% rate 5000000bit"
    )


@pytest.mark.parametrize(
    ("way", "whole"),
    [
        (NATURAL, True),
        (Way(delay_ms=5), True),
        (Way(delay_ms=5, jitter_ms=1), False),
        (Way(loss_pct=1), False),
        (Way(rate_mbit=1), False),
    ],
)
def test_super_packets_stay_whole_only_where_they_are_only_late(way, whole):
    """What is longer than tbf's burst is cut: it has that of two Ethernet frames, or of nothing that there is."""
    words = tc.cutter(way, 1500)
    assert int(after(words, "burst")) == (4_000_000 if whole else 3000)


@pytest.mark.parametrize(
    ("address", "up", "words"),
    [
        (
            "192.0.2.7",
            True,
            "protocol ip pref 61867 u32 match ip dst 192.0.2.7/32 match ip protocol 6 0xff match ip dport 9 0xffff",
        ),
        (
            "fd00::7",
            False,
            "protocol ipv6 pref 61868 u32 match ip6 src fd00::7/128 match ip6 protocol 6 0xff match ip6 sport 9 0xffff",
        ),
    ],
)
def test_only_the_experiments_packets_are_matched(address, up, words):
    """TCP to or from the server's address and port; SSH has another."""
    assert " ".join(tc.match(address, 9, up=up)) == words
