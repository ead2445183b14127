"""How many threads a process may use."""

import os
from pathlib import Path


def threads_for(local_world: int) -> int:
    """Threads of one process: OMP_NUM_THREADS, else what the container may use, shared by its processes."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    quota = _cgroup_quota()
    return max(int(min(cores, quota or cores)) // local_world, 1)


def _cgroup_quota() -> float | None:
    """Processors that the container's quota allows (cgroup v2, then v1), None where there is no quota."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            limit = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text().strip()
            period = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    return int(limit) / int(period) if limit not in ("max", "-1") else None
