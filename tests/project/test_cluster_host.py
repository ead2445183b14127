"""podman's configuration: limits that a container can be given, on whatever machine."""

import re
import resource
from pathlib import Path

import pytest

from cluster import host

PID_MAX = int(Path("/proc/sys/kernel/pid_max").read_text())
HARD = resource.getrlimit(resource.RLIMIT_NPROC)[1]
ALLOWED = PID_MAX if HARD == resource.RLIM_INFINITY else min(HARD, PID_MAX)


def nproc(file: Path) -> str:
    found = re.search(r'"nproc=(\d+:\d+)"', file.read_text())
    assert found, file.read_text()
    return found[1]


def test_containers_get_no_more_processes_than_the_hard_limit_and_the_kernel_allow(tmp_path: Path) -> None:
    file = tmp_path / "containers" / "containers.conf"
    host.write_containers_conf(file)
    assert nproc(file) == f"{ALLOWED}:{ALLOWED}"


@pytest.mark.parametrize("pid_max", [1000, 4_194_304])
def test_the_smaller_of_hard_limit_and_pid_max_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pid_max: int
) -> None:
    kernel = tmp_path / "pid_max"
    kernel.write_text(f"{pid_max}\n")
    monkeypatch.setattr(host, "PID_MAX", kernel)
    limit = host.process_limits()["nproc"]
    assert limit == (pid_max if HARD == resource.RLIM_INFINITY else min(HARD, pid_max))


@pytest.mark.parametrize("limits", ['"nofile=1048576:1048576", "nproc=96365:96365"', '"nofile=1048576:1048576"'])
def test_a_configuration_that_was_written_here_before_is_corrected(tmp_path: Path, limits: str) -> None:
    file = tmp_path / "containers.conf"
    file.write_text(
        f"[containers]\ndefault_ulimits = [{limits}]\n"
        '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
    )
    host.write_containers_conf(file)
    assert nproc(file) == f"{ALLOWED}:{ALLOWED}"


def test_a_configuration_of_someone_else_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "containers.conf"
    text = '[containers]\ndefault_ulimits = ["nproc=99999999:99999999"]\n[engine]\nruntime = "crun"\n'
    file.write_text(text)
    host.write_containers_conf(file)
    assert file.read_text() == text
