"""What an interface had before: what comes back by itself, what is made again, what is left alone."""

from __future__ import annotations

import json

import msgspec
import pytest

from flclient.link.errors import LinkError
from flclient.link.prior import prior_of
from flclient.link.tc import Qdisc

FQ_CODEL = {
    "kind": "fq_codel",
    "handle": "10:",
    "root": True,
    "refcnt": 2,
    "options": {"limit": 500, "flows": 1024, "quantum": 1514, "target": 4999, "interval": 99999, "drop_batch": 64},
}


def rows(*listed: dict) -> list[Qdisc]:
    return msgspec.json.decode(json.dumps(listed), type=list[Qdisc])


def row(kind: str, handle: str = "0:", **more: object) -> dict:
    return {"kind": kind, "handle": handle, **({"root": True} if "parent" not in more else {}), **more}


@pytest.mark.parametrize(
    ("listed", "child"),
    [
        ([row("noqueue")], "pfifo limit 1000"),
        ([row("fq_codel")], "fq_codel"),
        ([row("mq"), row("fq_codel", parent=":1"), row("fq_codel", parent=":2")], "fq_codel"),
        ([row("pfifo_fast")], ""),
    ],
)
def test_what_the_kernel_chose_comes_back_by_itself(listed, child):
    """Meanwhile, other packets have the same kind of queue; of pfifo_fast's bands, those of our root."""
    prior = prior_of("eth0", rows(*listed))
    assert (prior.words, prior.child) == ("", child)
    assert (prior.bands[0] == "1") == (listed[0]["kind"] == "pfifo_fast")


def test_what_somebody_chose_is_made_again():
    """With all that tc says of it: codel's times, which tc rounds down, and switches of which it is silent."""
    prior = prior_of("eth0", rows(FQ_CODEL))
    assert prior.child == (
        "fq_codel limit 500 flows 1024 quantum 1514 target 5000us interval 100000us drop_batch 64 noecn"
    )
    assert prior.words == f"handle 10: {prior.child}"


@pytest.mark.parametrize(
    ("listed", "named"),
    [
        ([row("htb", "1:"), row("fq_codel", "8001:", parent="1:1")], "htb 1:"),
        ([row("mq"), row("fq", "8002:", parent=":1")], "fq 8002:"),
        ([row("netem", "8003:")], "netem 8003:"),
        ([row("cake", "8004:")], "cake 8004:"),
        ([row("fq_codel"), row("clsact", "ffff:", parent="ffff:fff1")], "clsact"),
        ([row("fq_codel"), row("ingress", "ffff:", parent="ffff:fff1")], "ingress"),
    ],
)
def test_what_could_not_be_made_again_is_refused(listed, named):
    """In a sentence that names the interface, what is there, and what to do."""
    with pytest.raises(LinkError, match=r"^eth0 .*tc qdisc del dev eth0 .*relay$") as raised:
        prior_of("eth0", rows(*listed))
    assert named in str(raised.value)


def test_what_does_not_fit_where_it_is_kept_is_refused():
    """The words are kept in a device's alias of 255 characters."""
    long = FQ_CODEL | {"options": FQ_CODEL["options"] | {"memory_limit": 10**200}}
    with pytest.raises(LinkError, match="much to say"):
        prior_of("eth0", rows(long))
