"""Memory and processors of a machine, alone and in containers of both versions of control groups."""

import pytest

from llamafactory_chatts.core.memory import GIB
from llamafactory_chatts.recipe.machine import host_limits


MEMINFO = "MemTotal: 67108864 kB\nMemFree: 1048576 kB\nMemAvailable: 62914560 kB\nSwapFree: 0 kB\n"
V1 = "11:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n"


@pytest.fixture
def files(monkeypatch):
    """Return a function that puts texts in the place of the kernel's files."""

    def put(content):
        content = {"/proc/meminfo": MEMINFO, **{key: str(value) for key, value in content.items()}}
        monkeypatch.setattr(host_limits, "read", lambda path: content.get(str(path).replace("//", "/"), ""))

    return put


def test_without_a_limit(files):
    files({"/proc/self/cgroup": "0::/user.slice\n", "/sys/fs/cgroup/user.slice/memory.max": "max"})
    assert host_limits.host_memory() == {"total": 64.0, "available": 60.0, "swap": 0.0, "limit": None}
    assert host_limits.largest_memory() == 64.0


@pytest.mark.parametrize("folder", ["/sys/fs/cgroup", "/sys/fs/cgroup/a", "/sys/fs/cgroup/a/b"])
def test_version_2_wherever_the_limit_stands(files, folder):
    """30 of 32 GiB used, 25 of them files that were read: 27 are there for the asking."""
    stat = (
        f"anon {5 * GIB}\nfile {25 * GIB}\ninactive_file {20 * GIB}\nactive_file {4 * GIB}\nslab_reclaimable {GIB}\n"
    )
    content = {f"{folder}/memory.max": 32 * GIB, f"{folder}/memory.current": 30 * GIB, f"{folder}/memory.stat": stat}
    files({"/proc/self/cgroup": "0::/a/b\n", **content})
    size = host_limits.host_memory()
    assert (size["available"], size["limit"]) == (27.0, 32.0) and host_limits.largest_memory() == 32.0


def test_version_1(files):
    folder = "/sys/fs/cgroup/memory"
    stat = f"inactive_file 5\ntotal_inactive_file {6 * GIB}\ntotal_active_file {GIB}\n"
    content = {f"{folder}/memory.limit_in_bytes": 16 * GIB, f"{folder}/memory.usage_in_bytes": 15 * GIB}
    files({"/proc/self/cgroup": V1, **content, f"{folder}/memory.stat": stat})
    size = host_limits.host_memory()
    assert (size["available"], size["limit"]) == (8.0, 16.0)
    files({"/proc/self/cgroup": V1, f"{folder}/memory.limit_in_bytes": 9223372036854771712})
    assert host_limits.host_memory()["limit"] is None


def test_the_machine_may_have_less_than_the_group_allows(files):
    files({"/sys/fs/cgroup/memory.max": 640 * GIB, "/sys/fs/cgroup/memory.current": GIB})
    assert host_limits.host_memory()["available"] == 60.0 and host_limits.largest_memory() == 64.0


@pytest.mark.parametrize(
    ("content", "count"),
    [
        ({}, 16),
        ({"/sys/fs/cgroup/cpu.max": "max 100000"}, 16),
        ({"/sys/fs/cgroup/cpu.max": "250000 100000"}, 3),
        ({"/proc/self/cgroup": "0::/a\n", "/sys/fs/cgroup/a/cpu.max": "50000 100000"}, 1),
        (
            {
                "/proc/self/cgroup": V1,
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            4,
        ),
        ({"/proc/self/cgroup": V1, "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1"}, 16),
    ],
)
def test_processors(files, monkeypatch, content, count):
    monkeypatch.setattr(host_limits.os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    files(content)
    assert host_limits.processors() == count
