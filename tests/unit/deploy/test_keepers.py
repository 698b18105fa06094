"""The kernel's layer on a host: asked to try before anything starts, and told to clean up after one that was killed."""

from __future__ import annotations

import json

import pytest

from deploy.errors import CommandFailed
from deploy.keepers import obstacle, unshape
from deploy.remote.fake import FakeRemote
from flcommon.job import Shaping

KERNEL = Shaping(layer="kernel", interface="wlan0")


def test_links_that_a_killed_process_left_are_taken_off(facts):
    """By the code that is there, with sudo where the login is not root's; what was removed is passed on."""
    said = "eth0: removed\n"
    for user, first in (("root", "env"), ("kim", "sudo")):
        remote = FakeRemote("a", {lambda argv: "--clean" in argv: said})
        left = facts(user=user, interfaces=("lo", "eth0", "fieldlab-2"), code=("abc",))
        assert unshape(remote, left) == ["eth0: removed"]
        (call,) = remote.calls
        assert call.argv[0] == first
        assert call.argv[-3:] == ("-m", "flclient.link.kernel", "--clean")


def test_a_host_without_devices_of_ours_is_not_asked_for_links(facts):
    """Nor is one that has no code to ask with."""
    remote = FakeRemote("a")
    assert unshape(remote, facts(interfaces=("lo", "eth0"), code=("abc",))) == []
    assert unshape(remote, facts(interfaces=("fieldlab-2",), code=())) == []
    assert remote.calls == []


def refusing(said):
    def failed(argv):
        return "--check" in argv

    return FakeRemote("a", {failed: CommandFailed("a", "link", ("env",), status=1, output=said)})


def test_a_kernel_is_asked_to_try(facts):
    """With the server and the interface that it will be; that it can is an empty answer."""
    remote = FakeRemote("a")
    assert obstacle(remote, facts(user="root"), "/code", KERNEL, "192.0.2.1:8080") == ""
    (call,) = remote.calls
    assert call.argv[-3:] == ("-m", "flclient.link.kernel", "--check")
    asked = json.loads(call.stdin)
    assert (asked["server"], asked["interface"]) == ("192.0.2.1:8080", "wlan0")


def test_why_a_kernel_cannot_is_its_own_word(facts):
    """Whatever else stands around it; what is no such word is an error like any other."""
    remote = refusing('warning\n{"say":"broke","reason":"eth0 has an htb of somebody else"}\n')
    assert obstacle(remote, facts(), "/code", KERNEL, "x:1") == "eth0 has an htb of somebody else"
    with pytest.raises(CommandFailed):
        obstacle(refusing("sudo: a password is required"), facts(), "/code", KERNEL, "x:1")
