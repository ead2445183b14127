"""Faults of what a run stands on: they pass, and the run with them."""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import hub
from runs import COMMAND, Victim, digest, finish, losses, train

STEPS = ("--schedule.max_steps", "24", "--checkpoint.every_steps", "4", "--run_id", "run1")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start the first process of a container")
def test_sigterm_to_the_first_process_of_a_container_is_heard_from_its_first_moment(
    bert: Path, texts: Path, tmp_path: Path
) -> None:
    wrapper = ["unshare", "--pid", "--fork", "--kill-child", "env", "--block-signal=TERM"]
    run = Victim(train(bert, texts, tmp_path / "out", 1, *STEPS), tmp_path / "out", command=[*wrapper, *COMMAND])
    first = 0
    while not first:
        first = next(iter(run.workers()), 0)
    while "python" not in Path(f"/proc/{first}/cmdline").read_text().partition("\0")[0]:
        time.sleep(0.001)
    os.kill(first, signal.SIGTERM)
    said = run.process.communicate(timeout=120)[1]
    assert run.process.returncode == 143, said
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs a small file system of its own, and mount says: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.matrix
def test_a_full_volume_is_waited_for_and_a_stop_goes_through(bert: Path, texts: Path, small_volume: Path) -> None:
    whole, output = small_volume.parent / "whole", small_volume / "out"
    finish(train(bert, texts, whole, 1, *STEPS))
    run = Victim(train(bert, texts, output, 1, *STEPS), output)
    assert run.wait_for(lambda: run.step() >= 5 and (output / "checkpoint-4").exists())
    ballast = small_volume / "ballast"
    ballast.write_bytes(b"x" * max(shutil.disk_usage(small_volume).free - 4096, 0))
    run.process.send_signal(signal.SIGTERM)
    said = run.process.communicate(timeout=120)[1]
    assert run.process.returncode == 143, said
    assert "Traceback" not in said and "could NOT be written" in said

    run = Victim(train(bert, texts, output, 1, *STEPS), output)
    time.sleep(15)
    assert run.process.poll() is None, run.process.communicate()[1]
    ballast.unlink()
    said = run.process.communicate(timeout=240)[1]
    assert run.process.returncode == 0, said
    assert "No space left on device; make room, and the run goes on; starting again" in said
    assert digest(output / "final") == digest(whole / "final")
    assert losses(output) == losses(whole)


@pytest.mark.matrix
@pytest.mark.parametrize("fault", ["503", "unreachable"])
def test_a_hub_that_is_away_when_a_cold_node_resumes_is_waited_for(
    bert: Path, texts: Path, tmp_path: Path, fault: str
) -> None:
    files = {path.name: path.read_bytes() for path in bert.iterdir() if path.is_file()}
    output = tmp_path / "out"
    with hub.serve({"models/owner/tiny": hub.Repository(files)}) as service:
        arguments = ["--model.name=owner/tiny", *STEPS]
        environment = service.environment(tmp_path / "cache")
        run = Victim(train(bert, texts, output, 1, *arguments), output, environment)
        assert run.wait_for(lambda: (output / "checkpoint-4").exists()), run.process.communicate()[1]
        run.process.send_signal(signal.SIGTERM)
        said = run.process.communicate(timeout=120)[1]
        assert run.process.returncode == 143, said

        cold = environment | {"HF_HOME": str(tmp_path / "another")}
        if fault == "unreachable":
            cold["HF_ENDPOINT"] = "http://127.0.0.1:9"
        else:
            service.answers.append(503)
        run = Victim(train(bert, texts, output, 1, *arguments), output, cold)
        third = output / "logs" / "node-0.attempt-3.log"
        assert run.wait_for(third.exists), run.process.communicate()[1]
        if fault == "unreachable":
            run.process.send_signal(signal.SIGTERM)
            sentence, code = "cannot be reached for model owner/tiny", 143
        else:
            service.answers.clear()
            sentence, code = "the Hub answered 503 for model owner/tiny", 0
        said = run.process.communicate(timeout=240)[1]
        assert run.process.returncode == code, said
        assert re.search(f"{sentence}.*; starting again", said), said
