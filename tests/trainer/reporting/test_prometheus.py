"""The Prometheus endpoint."""

import socket
import urllib.request
from pathlib import Path

from distrain_trainer.reporting.prometheus import export, newest_step
from distrain_trainer.storage.attempts import begin_attempt


def test_the_endpoint_tells_the_newest_step_and_the_attempt(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    export(tmp_path, port)

    def scraped() -> dict[str, float]:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
        return {line.split()[0]: float(line.split()[1]) for line in text.splitlines() if not line.startswith("#")}

    assert scraped() == {"distrain_attempt": 0}
    begin_attempt(tmp_path)
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 7, "loss": 1.5, "tokens_per_second": 250.0, "grad_norm": null}\n{"step": 7, "event": "checkpoint"}\n'
    )
    assert scraped() == {
        "distrain_attempt": 1,
        "distrain_step": 7,
        "distrain_loss": 1.5,
        "distrain_tokens_per_second": 250,
    }


def test_a_torn_last_line_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert newest_step(file) == {"step": 1, "loss": 2.0}
