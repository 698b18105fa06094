"""The pure parts of labs of network namespaces: networks, mount tables, shares of the processor. Nothing is started."""

from __future__ import annotations

import ipaddress
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.errors import DeployError
from deploy.providers.netns.cgroup import Hierarchy, bandwidth, find
from deploy.providers.netns.links import BENCHMARKING, free_network, routes
from deploy.providers.netns.mounts import Mount, parse
from deploy.providers.netns.plan import CALLER, LabPlan, Programs, Request
from deploy.providers.netns.root import machine_points

NETWORKS = st.builds(
    lambda address, length: ipaddress.IPv4Network((address, length), strict=False),
    st.integers(int(BENCHMARKING[0]) - 512, int(BENCHMARKING[-1]) + 512),
    st.integers(15, 32),
)
MOUNTINFO = r"""
25 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
26 25 0:5 / /proc rw,relatime shared:3 - proc proc rw
27 25 254:1 / /srv/big\040disk rw,relatime shared:4 master:1 - xfs /dev/vdb rw
28 25 254:2 / /home rw - ext4 /dev/vdc rw
29 25 0:33 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
30 25 0:34 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset
31 25 7:1 / /snap/core/1 ro - squashfs /dev/loop1 ro
32 25 0:60 / /var/lib/containers/x rw - overlay overlay rw,lowerdir=/x
""".strip()


@given(st.lists(NETWORKS, max_size=40))
def test_a_free_network_collides_with_no_route(taken):
    """It is a /24 of the benchmarking range (RFC 2544) that overlaps nothing, or there is none, and that is said."""
    parts = BENCHMARKING.subnets(new_prefix=24)
    if all(any(part.overlaps(network) for network in taken) for part in parts):
        with pytest.raises(DeployError, match=r"198\.18\.0\.0/15"):
            free_network(taken)
        return
    found = free_network(taken)
    assert found.prefixlen == 24
    assert found.subnet_of(BENCHMARKING)
    assert not any(found.overlaps(network) for network in taken)


def test_a_default_route_takes_nothing():
    """Every machine has one; it is no reason to find no network."""
    assert free_network([ipaddress.IPv4Network("0.0.0.0/0")]).subnet_of(BENCHMARKING)


def test_routes_are_read_as_ip_writes_them():
    """Networks, single addresses and the default, of every table."""
    told = [{"dst": "default"}, {"dst": "198.18.5.0/24", "dev": "x"}, {"type": "local", "dst": "127.0.0.1"}]
    assert [str(network) for network in routes(json.dumps(told))] == ["198.18.5.0/24", "127.0.0.1/32"]


def test_a_mount_table_is_read():
    """With escaped names, and with any number of optional fields."""
    mounts = parse(MOUNTINFO)
    assert mounts[2] == Mount(Path("/srv/big disk"), "xfs", ("rw",))
    assert [mount.kind for mount in mounts][:2] == ["ext4", "proc"]


def test_hosts_see_the_machines_disks_and_nothing_else():
    """Not its homes, its kernel's files, its images and containers."""
    assert machine_points(parse(MOUNTINFO)) == [Path("/"), Path("/srv/big disk")]


def test_the_hierarchy_of_version_1_is_found():
    """`cpuset` is another thing than `cpu`."""
    assert find(parse(MOUNTINFO)) == Hierarchy(Path("/sys/fs/cgroup/cpu,cpuacct"), 1)
    assert find(parse(MOUNTINFO.replace("rw,cpu,cpuacct", "rw,memory"))) is None


def test_the_hierarchy_of_version_2_is_found_and_written(tmp_path):
    """If it has the processor's controller, which must be handed down to be used."""
    mounts = [Mount(tmp_path, "cgroup2", ("rw",))]
    (tmp_path / "cgroup.controllers").write_text("memory pids\n")
    assert find(mounts) is None
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    hierarchy = find(mounts)
    assert hierarchy == Hierarchy(tmp_path, 2)
    (tmp_path / "cgroup.subtree_control").write_text("memory\n")
    hierarchy.hand_down(tmp_path)
    assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu"
    hierarchy.make(tmp_path / "host", 0.25)
    assert (tmp_path / "host" / "cpu.max").read_text() == "5000 20000"


@given(st.floats(0.01, 1024))
def test_a_share_is_what_the_kernel_takes(cores):
    """Quota over period is the share; neither is below a millisecond, and the period not above a second."""
    quota_s, period_s = bandwidth(cores)
    assert quota_s / period_s == pytest.approx(cores)
    assert quota_s >= 0.00099
    assert 0.001 <= period_s <= 1


def test_addresses_of_a_lab_are_all_different():
    """The controller's too, with the most hosts there can be."""
    request = Request(
        lab="x", lasting=False, hosts=(), programs=Programs(ip="", sshd="", keygen=""), python="", visible=()
    )
    plan = LabPlan(id="0a1b2c3d", request=request, network="198.18.7.0/24", network6="fd00:1::/64", started=0)
    numbers = [*range(1, 202), CALLER]
    for values in (map(plan.address, numbers), map(plan.address6, numbers), map(plan.mac, numbers)):
        assert len(set(values)) == len(numbers)
    assert plan.address(1) == "198.18.7.1"
    assert plan.address6(1) == "fd00:1::1"
    assert plan.mac(1) == "02:f1:0a:1b:2c:01"
    assert len(plan.veth) <= 15
