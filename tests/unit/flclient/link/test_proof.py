"""A link is proved by differences: what the clocks' offset and the natural network are, must not matter."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flclient.link import proof
from flclient.probe import Goodput, Pings
from flcommon.link import Burst, Way

OFFSETS = st.floats(-1e5, 1e5)
DELAYS = st.floats(0, 500)
NOISE = st.lists(st.floats(0, 5), min_size=5, max_size=30)


def seen(noise_ms: list[float], base_ms: float) -> tuple[float, ...]:
    return tuple((base_ms + one) / 1000 for one in [0.0, *noise_ms])


@given(offset_ms=OFFSETS, natural_ms=st.floats(0, 200), asked_ms=DELAYS, before=NOISE, after=NOISE)
def test_a_link_that_does_what_was_asked_is_believed(
    offset_ms: float, natural_ms: float, asked_ms: float, before: list[float], after: list[float]
) -> None:
    """Whatever the clocks' offset, the natural delay and what held up single pings."""
    base = offset_ms + natural_ms
    found = proof.compare(Way(delay_ms=asked_ms), "up", seen(before, base), seen(after, base + asked_ms))
    assert found.off == ""
    assert found.measured_ms is not None
    assert abs(found.measured_ms - asked_ms) < 1e-3


@given(asked_ms=DELAYS, error=st.floats(1.01, 50), sign=st.sampled_from([-1, 1]), noise=NOISE)
def test_a_link_that_is_off_by_more_than_allowed_is_said(
    asked_ms: float, error: float, sign: int, noise: list[float]
) -> None:
    """The greater of 1 ms and 5 %."""
    off_ms = sign * error * max(1.0, 0.05 * asked_ms)
    found = proof.compare(Way(delay_ms=asked_ms), "down", seen(noise, 0.0), seen(noise, asked_ms + off_ms))
    assert found.off.startswith(f"down: {asked_ms:g} ms of delay were asked for, ")


def test_no_ping_that_comes_back_proves_nothing() -> None:
    assert proof.compare(Way(delay_ms=1), "up", (), (0.1,)).off == "up: no ping came back"


def test_jitter_is_judged_by_the_mean() -> None:
    """The fastest ping says nothing of a delay that varies: half of them are faster than what was asked."""
    after = tuple((10 + (-1) ** number * 5) / 1000 for number in range(50))
    assert proof.compare(Way(delay_ms=10, jitter_ms=5), "up", (0.0,), after).off == ""
    late = tuple(one + 0.006 for one in after)
    assert proof.compare(Way(delay_ms=10, jitter_ms=5), "up", (0.0,), late).off != ""


def test_a_slow_link_gets_time_for_each_ping() -> None:
    """At 100 kbit/s a ping is on its way for up to 32 ms; the next one must not queue behind it, nor behind jitter."""
    assert proof.pings_for(Way(), Way()) == (proof.PINGS, proof.EVERY_MS)
    assert proof.pings_for(Way(rate_mbit=0.1), Way())[1] == 128.0
    assert proof.pings_for(Way(delay_ms=40, jitter_ms=20), Way()) == (proof.JITTERED_PINGS, 60.0)


def test_a_rate_is_judged_by_goodput_unless_packets_are_lost() -> None:
    """Of 10 Mbit/s, 9.56 are payload; with loss, TCP is slower than the link is."""
    delays = (proof.Direction("up", 0, 0, 1), proof.Direction("down", 0, 0, 1))
    ten = Way(rate_mbit=10)
    right, free = proof.with_rates(ten, Way(), delays, Goodput(9.5, 300.0))
    assert (right.off, free.off) == ("", "")
    slow, _ = proof.with_rates(ten, Way(), delays, Goodput(8.0, 300.0))
    assert slow.off.startswith("up: 10 Mbit/s were asked for, which carry 9.56 of payload, 8 were measured")
    for lossy in (Way(rate_mbit=10, loss_pct=1), Way(rate_mbit=10, loss_burst=Burst(p_pct=1, r_pct=10))):
        assert proof.with_rates(lossy, Way(), delays, Goodput(2.0, 300.0))[0].off == ""


def test_a_round_trip_is_the_sum_of_both_ways() -> None:
    assert Pings((100.25, 100.5), (-100.0, -100.0)).rtt_s == (0.25, 0.5)
