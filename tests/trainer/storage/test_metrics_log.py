"""metrics.jsonl and the JSON files: complete, readable at any time, and free of what a kill leaves."""

import json
from pathlib import Path

import numpy as np
import pytest

from distrain_trainer.storage.files import write_json
from distrain_trainer.storage.metrics_log import MetricsLog, read_metrics


def test_lines_can_be_read_while_the_log_is_open(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        log.write({"step": 1, "loss": 0.5})
        assert read_metrics(log.path) == [{"step": 1, "loss": 0.5}]


def test_names_keep_their_order(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        log.write({"step": 1, "event": "resume", "at": 1})
    assert log.path.read_text() == '{"step": 1, "event": "resume", "at": 1}\n'


def test_any_text_survives(tmp_path: Path) -> None:
    text = "Zürich \u2028 \udc80 \n"
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        log.write({"step": 1, "message": text})
    write_json(tmp_path / "info.json", {"error": text})
    assert read_metrics(log.path) == [{"step": 1, "message": text}]
    assert json.loads((tmp_path / "info.json").read_text()) == {"error": text}


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        log.write({"step": 1, "loss": float("nan"), "grad_norm": np.float32("inf"), "worst": [-np.inf, 1.0]})
    assert read_metrics(log.path) == [{"step": 1, "loss": None, "grad_norm": None, "worst": [None, 1.0]}]


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        log.write({"step": np.int64(3), "loss": np.float32(0.5), "overflow": True, "matrix": ((1, 2), (3, 4))})
    assert read_metrics(log.path) == [{"step": 3, "loss": 0.5, "overflow": True, "matrix": [[1, 2], [3, 4]]}]


def test_what_json_cannot_hold_is_an_error(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "metrics.jsonl") as log, pytest.raises(TypeError, match="set has no JSON form"):
        log.write({"step": {1}})


def test_a_resumed_log_holds_each_step_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        for step in range(1, 8):
            log.write({"step": step, "attempt": 1})
        log.write({"step": 7, "event": "preempted"})
    with MetricsLog(path) as log:
        log.cut_back(4)
        for step in range(5, 8):
            log.write({"step": step, "attempt": 2})
    steps = [(line["step"], line["attempt"]) for line in read_metrics(path)]
    assert steps == [(1, 1), (2, 1), (3, 1), (4, 1), (5, 2), (6, 2), (7, 2)]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_cutting_back_to_the_start_leaves_an_empty_log(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        log.write({"step": 1})
        log.cut_back(0)
    assert log.path.read_text() == ""


@pytest.mark.parametrize("torn", [b'{"step": 3, "lo', b'{"step": 3}', b"\xc3", b"x" * 200_000])
def test_a_line_torn_by_a_kill_is_dropped(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n' + torn)
    with MetricsLog(path) as log:
        log.write({"step": 3, "loss": 1.0})
    assert read_metrics(path) == [{"step": 1}, {"step": 2}, {"step": 3, "loss": 1.0}]


def test_a_log_that_is_nothing_but_torn_starts_empty(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step"')
    with MetricsLog(path):
        assert path.read_bytes() == b""


def test_a_torn_line_within_the_log_hides_no_other(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n\x00\x00\n17\n{"step": 2, "lo\n{"step": 3}\n')
    assert read_metrics(path) == [{"step": 1}, {"step": 3}]


def test_no_log_has_no_lines(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_a_json_file_is_sorted_indented_and_complete(tmp_path: Path) -> None:
    path = tmp_path / "training_info.json"
    write_json(path, {"step": 3, "final": {}, "best": None, "matrix": [[1, 0], [0, 2]], "batch": {"tokens": 8}})
    assert path.read_text() == (
        '{\n  "batch": {\n    "tokens": 8\n  },\n  "best": null,\n  "final": {},\n'
        '  "matrix": [\n    [1, 0],\n    [0, 2]\n  ],\n  "step": 3\n}\n'
    )
    assert json.loads(path.read_text())["matrix"] == [[1, 0], [0, 2]]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "training_info.json"
    write_json(path, {"status": "running"})
    with pytest.raises(TypeError):
        write_json(path, {"status": object()})
    assert json.loads(path.read_text()) == {"status": "running"}
    assert [file.name for file in tmp_path.iterdir()] == ["training_info.json"]
