"""Memory and processors of a machine, alone and in containers of both versions of control groups."""

import pytest

from llamafactory_chatts.core.memory import GIB
from llamafactory_chatts.recipe.machine import host_limits


V1 = "11:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n"


def test_without_a_limit(kernel):
    kernel({"proc/self/cgroup": "0::/user.slice\n", "cgroup/user.slice/memory.max": "max"})
    assert host_limits.host_memory() == host_limits.Memory(64.0, 60.0, 0.0, None)
    assert host_limits.host_memory().largest == 64.0


@pytest.mark.parametrize("folder", ["cgroup", "cgroup/a", "cgroup/a/b"])
def test_version_2_wherever_the_limit_stands(kernel, folder):
    """30 of 32 GiB used, 25 of them files that were read: 27 are there for the asking."""
    stat = (
        f"anon {5 * GIB}\nfile {25 * GIB}\ninactive_file {20 * GIB}\nactive_file {4 * GIB}\nslab_reclaimable {GIB}\n"
    )
    content = {f"{folder}/memory.max": 32 * GIB, f"{folder}/memory.current": 30 * GIB, f"{folder}/memory.stat": stat}
    kernel({"proc/self/cgroup": "0::/a/b\n", **content})
    size = host_limits.host_memory()
    assert (size.available, size.limit) == (27.0, 32.0) and host_limits.host_memory().largest == 32.0


def test_version_1(kernel):
    folder = "cgroup/memory"
    stat = f"inactive_file 5\ntotal_inactive_file {6 * GIB}\ntotal_active_file {GIB}\n"
    content = {f"{folder}/memory.limit_in_bytes": 16 * GIB, f"{folder}/memory.usage_in_bytes": 15 * GIB}
    kernel({"proc/self/cgroup": V1, **content, f"{folder}/memory.stat": stat})
    size = host_limits.host_memory()
    assert (size.available, size.limit) == (8.0, 16.0)
    kernel({"proc/self/cgroup": V1, f"{folder}/memory.limit_in_bytes": 9223372036854771712})
    assert host_limits.host_memory().limit is None


def test_the_machine_may_have_less_than_the_group_allows(kernel):
    kernel({"cgroup/memory.max": 640 * GIB, "cgroup/memory.current": GIB})
    assert host_limits.host_memory().available == 60.0 and host_limits.host_memory().largest == 64.0


@pytest.mark.parametrize(
    ("content", "count"),
    [
        ({}, 16),
        ({"cgroup/cpu.max": "max 100000"}, 16),
        ({"cgroup/cpu.max": "250000 100000"}, 3),
        ({"proc/self/cgroup": "0::/a\n", "cgroup/a/cpu.max": "50000 100000"}, 1),
        (
            {
                "proc/self/cgroup": V1,
                "cgroup/cpu/cpu.cfs_quota_us": "400000\n",
                "cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            4,
        ),
        ({"proc/self/cgroup": V1, "cgroup/cpu/cpu.cfs_quota_us": "-1"}, 16),
    ],
)
def test_processors(kernel, monkeypatch, content, count):
    monkeypatch.setattr(host_limits.os, "sched_getaffinity", lambda pid: set(range(16)))
    kernel(content)
    assert host_limits.processors() == count
