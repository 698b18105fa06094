"""What a link is like that the kernel shapes: in a guest with real netem, seen from outside."""

from __future__ import annotations

import statistics

import pytest

from flclient.link.protocol import (
    Clear,
    Mark,
    Set,
    line,
)
from flcommon.link import NATURAL, Burst, Way


def near(ms: float) -> object:
    return pytest.approx(ms, abs=max(1.0, 0.05 * ms))


def test_each_direction_is_as_late_as_asked(guest, either):
    """Over IPv4 and IPv6; the answer has what the kernel says; cleared, the link is as it was."""
    probe = guest.probe(either)
    natural = probe.lowest_rtt_ms()
    keeper = guest.start(either)
    late = keeper.set(up=Way(delay_ms=5))
    assert (late.up["delay_ms"], late.down) == (pytest.approx(5), None)
    assert probe.later_ms(natural, 5) == near(5)
    assert keeper.set(down=Way(delay_ms=20)).up is None
    assert probe.later_ms(natural, 20) == near(20)
    keeper.set(Way(delay_ms=60), Way(delay_ms=40))
    assert probe.later_ms(natural, 100) == near(100)
    cleared = keeper.ask(Clear(number=7))
    assert (cleared.number, cleared.up, cleared.down) == (7, None, None)
    assert probe.later_ms(natural, 0) < 1
    assert keeper.talk.end() == b""


def test_jitter_scatters(guest, peer):
    """With the distribution that was asked for, also when another was there before; packets keep their order."""
    probe = guest.probe(peer)
    keeper = guest.start(peer)
    for distribution, middle in (("normal", 2.56 * 6), ("uniform", 1.6 * 6)):
        keeper.set(up=Way(delay_ms=12, jitter_ms=6, distribution=distribution))
        took = statistics.quantiles((1e3 * one for one in probe(pings=80)["took"]), n=10)
        assert took[-1] - took[0] == pytest.approx(middle, rel=0.25)
    keeper.set(up=Way(delay_ms=20, jitter_ms=15))
    assert probe(up=300_000)["retrans"] == 0
    keeper.talk.end()


def test_a_rate_is_kept(guest, peer):
    """Of 20 Mbit/s, as much is left for data as full Ethernet frames leave; nothing overflows."""
    probe = guest.probe(peer)
    keeper = guest.start(peer)
    for direction in ("up", "down"):
        assert getattr(keeper.set(**{direction: Way(rate_mbit=20)}), direction)["rate_mbit"] == 20
        rates = [probe.mbit(direction, 3_000_000) for _ in range(2)]
        assert max(rates) == pytest.approx(20 * 1448 / 1514, rel=0.08)
        used = keeper.ask(Mark(message="m", up=direction == "up"))
        assert (used.dropped, used.overflowed) == (0, 0)
        assert used.size_bytes > 6_000_000
        assert keeper.ask(Mark(message="n", up=direction == "up")).size_bytes < 3_000
    keeper.talk.end()


@pytest.mark.parametrize(
    ("way", "share", "together"),
    [(Way(loss_pct=2), 0.02, 1), (Way(loss_burst=Burst(p_pct=0.3, r_pct=30)), 1 / 101, 2 / 0.3 - 1)],
    ids=["random", "bursts"],
)
def test_packets_are_lost_one_by_one(guest, peer, way, share, together):
    """The share that was asked for, within what chance allows, though TCP hands down super-packets."""
    probe = guest.probe(peer)
    keeper = guest.start(peer)
    for direction in ("up", "down"):
        keeper.set(**{direction: way})
        probe(**{direction: 4_000_000})
        used = keeper.ask(Mark(message="m", up=direction == "up"))
        offered = used.packets + used.dropped
        assert offered > 2_700
        deviation = (offered * share * (1 - share) * together) ** 0.5
        assert used.dropped == pytest.approx(offered * share, abs=5 * deviation)
        assert used.overflowed is None  # not to be told from the loss
    keeper.talk.end()


def test_what_the_kernel_holds_is_read_back(guest, peer):
    """All that a way can ask for, in its own units; what one way asked for is not left in the next."""
    keeper = guest.start(peer)
    way = Way(
        delay_ms=12.5,
        jitter_ms=1.25,
        distribution="pareto",
        loss_burst=Burst(p_pct=1, r_pct=20, bad_loss_pct=90, good_loss_pct=0.5),
        rate_mbit=0.5,
        reorder_pct=25,
        duplicate_pct=0.1,
    )
    held = keeper.set(way, way)
    asked = {
        "delay_ms": 12.5,
        "jitter_ms": 1.25,
        "loss_burst.p_pct": 1,
        "loss_burst.r_pct": 20,
        "loss_burst.bad_loss_pct": 90,
        "loss_burst.good_loss_pct": 0.5,
        "rate_mbit": 0.5,
        "reorder_pct": 25,
        "duplicate_pct": 0.1,
    }
    for found in (held.up, held.down):
        assert {name: found[name] for name in asked} == pytest.approx(asked, rel=1e-3)
        assert found.keys() - asked.keys() == {"limit_packets"}
    assert keeper.set(Way(delay_ms=3)).up.keys() == {"delay_ms", "limit_packets"}
    keeper.talk.end()


def test_steps_come_true_in_time(guest, peer):
    """Sent ahead, each is answered when it holds; what has not come true by the next one for now is void."""
    keeper = guest.start(peer)
    now = keeper.set(Way(delay_ms=1)).mono_ns
    later = [Set(number=n, up=Way(delay_ms=n), down=NATURAL, at_ns=now + n * 300_000_000) for n in (2, 1, 200)]
    keeper.talk.tell(b"".join(map(line, later)))
    for number in (1, 2):
        step = keeper.hear()
        assert (step.number, step.up["delay_ms"]) == (number, pytest.approx(number))
        assert step.mono_ns - now >= number * 300_000_000
    assert keeper.ask(Clear(number=9)).number == 9
    assert keeper.talk.end() == b""
    assert guest.sh("tc qdisc show dev vec0").startswith("qdisc pfifo_fast 0:")
