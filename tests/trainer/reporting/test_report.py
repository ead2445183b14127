import math
import re
from collections.abc import Callable, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distrain_trainer.metrics.metrics import classification_metrics, confusion_matrix, language_metrics
from distrain_trainer.reporting import svg
from distrain_trainer.reporting.report import write_report
from distrain_trainer.settings.model import Settings
from distrain_trainer.storage.files import write_json
from distrain_trainer.storage.metrics_log import MetricsLog, read_metrics

TOPICS = [
    "dates",
    "numbers",
    "text",
    "files",
    "network",
    "processes",
    "mathematics",
    "compression",
    "email",
    "testing",
    "time",
    "typing",
]


def settings_file(settings: Settings, labels: Sequence[str] = ()) -> dict[str, Any]:
    return {
        "run_id": "topics-1",
        "command": ["distrain", "train", "run.yaml", "--schedule.epochs", "5"],
        "settings": settings.model_dump(mode="json"),
        "data": {
            "description": "docstrings of the standard library",
            "fingerprint": "9f2c4e51d0a7b388",
            "counts": {"empty_dropped": 12, "truncated": 148, "classes": len(labels)},
            "train_rows": 12345,
            "evaluation_rows": 1371,
            "commit": None,
        },
        "versions": {"distrain": "0.1.0", "python": "3.11.9", "torch": "2.13.0", "numpy": "2.4.1"},
        "git_commit": "4b825dc642cb6eb9a060e54bf8d69288fbee4904",
        "world_size": 2,
        "threads": 4,
        "hardware": {
            "processor": "AMD EPYC 7R13",
            "cores": 8,
            "memory_bytes": 33 * 2**30,
            "accelerator": "NVIDIA H100 80GB HBM3",
            "accelerators": 2,
        },
        "parameters": {"trainable": 22_717_836, "all": 22_717_836},
        "plan": {"steps": 300, "steps_per_epoch": [60] * 5, "padding_fraction": 0.021, "imbalance": 1.034},
    }


def info_file(settings: Settings, **more: Any) -> dict[str, Any]:
    return {
        "status": "finished",
        "error": None,
        "step": 300,
        "steps": 300,
        "epoch": 5.0,
        "final": {},
        "best": None,
        "tokens": 4_912_345,
        "samples": 61_725,
        "seconds": 1834.2,
        "tokens_per_second": 2678.3,
        "padding_fraction": 0.0213,
        "model": settings.model.name,
        "dataset": "docstrings of the standard library",
        "world_size": 2,
        "batch": settings.batch.model_dump(),
        "learning_rate": settings.optimizer.learning_rate,
        "confusion_matrix": None,
    } | more


def train_line(step: int, steps: int, epochs: int, first_loss: float, random: np.random.Generator) -> dict[str, Any]:
    progress = step / steps
    return {
        "step": step,
        "epoch": epochs * progress,
        "loss": first_loss * (0.12 + 0.88 * math.exp(-4 * progress)) * (1 + 0.12 * random.standard_normal()),
        "learning_rate": 5e-5 * min(progress / 0.1, (1 - progress) / 0.9),
        "grad_norm": 1 + abs(random.standard_normal()) + 4 * math.exp(-9 * progress),
        "samples": 205,
        "tokens": 16_374,
        "tokens_per_second": 2700 + 120 * random.standard_normal(),
        "padding_fraction": abs(0.02 + 0.008 * random.standard_normal()),
        "step_seconds": 6 + 0.3 * random.standard_normal(),
        "data_seconds": 0.02,
        "sync_seconds": 0.4 + 0.05 * random.standard_normal(),
        "memory_bytes": int((9 + progress) * 2**30),
        "gpu_utilization": 0.93,
        "mfu": None,
    }


def classified(classes: int, right: float, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """References and predictions of 1,371 rows, a fraction of them right, the wrong ones mostly one class off."""
    references = (classes * random.random(1371) ** 1.5).astype(int)
    off = 1 + random.geometric(0.6, 1371)
    return references, np.where(random.random(1371) < right, references, (references + off) % classes)


def classification_run(
    folder: Path, labels: Sequence[str] = TOPICS, steps: int = 300, status: str = "finished"
) -> None:
    """What a finished run leaves that was resumed once; `steps` and `labels` as one likes."""
    random = np.random.default_rng(1)
    settings = Settings.model_validate(
        {
            "model": {"name": "sentence-transformers/all-MiniLM-L6-v2"},
            "batch": {"tokens": 8192, "micro_batches": 4},
            "schedule": {"epochs": 5, "warmup_fraction": 0.1},
        }
    )
    write_json(folder / "settings.json", settings_file(settings, labels))
    evaluations = []
    with MetricsLog(folder / "metrics.jsonl") as log:
        log.write({"step": 0, "event": "start", "world_size": 2})
        for step in range(1, steps + 1):
            log.write(train_line(step, steps, 5, math.log(len(labels)), random))
            if step == steps * 2 // 3:
                log.write({"step": step, "event": "preempted", "message": "node-1 was asked to stop"})
                log.write({"step": step, "event": "resume", "message": "from checkpoint-200", "world_size": 2})
            if step == steps // 4:
                log.write({"step": step, "event": "nonfinite", "message": "the gradient is not finite"})
            if step % (steps // 6) == 0:
                log.write({"step": step, "event": "checkpoint", "seconds": 3.1})
            if step % (steps // 10) == 0:
                references, predictions = classified(len(labels), 0.92 - 0.6 * math.exp(-5 * step / steps), random)
                values = classification_metrics(predictions, references, len(labels))
                loss = math.log(len(labels)) * (0.2 + 0.8 * math.exp(-5 * step / steps))
                evaluations.append((step, values | {"loss": loss}))
                log.write({"step": step, "epoch": 5 * step / steps} | prefixed(evaluations[-1][1]))
        log.write({"step": steps, "event": "end", "message": "finished"})
    step, values = max(evaluations, key=lambda evaluation: evaluation[1]["accuracy"])
    info = info_file(
        settings,
        status=status,
        step=steps,
        steps=steps,
        final=evaluations[-1][1],
        best={"metric": "accuracy", "value": values["accuracy"], "step": step},
        confusion_matrix={
            "labels": list(labels),
            "counts": confusion_matrix(predictions, references, len(labels)).tolist(),
        },
    )
    write_json(folder / "training_info.json", info)


def language_run(folder: Path, steps: int = 120) -> None:
    random = np.random.default_rng(2)
    settings = Settings.model_validate({"task": "causal-lm", "model": {"name": "my-org/tiny-llama"}})
    write_json(folder / "settings.json", settings_file(settings))
    with MetricsLog(folder / "metrics.jsonl") as log:
        for step in range(1, steps + 1):
            log.write(train_line(step, steps, 1, 6.0, random))
            if step % 30 == 0:
                values = language_metrics(10_000 * (1.5 + 4.5 * math.exp(-4 * step / steps)), 10_000, 20 * step)
                log.write({"step": step, "epoch": step / steps} | prefixed(values))
    best = {"metric": "loss", "value": values["loss"], "step": steps}
    write_json(folder / "training_info.json", info_file(settings, step=steps, steps=steps, final=values, best=best))


def failed_run(folder: Path) -> None:
    """Steps but no evaluation, a loss that was not finite, and an error that looks like HTML."""
    random = np.random.default_rng(3)
    settings = Settings()
    write_json(folder / "settings.json", settings_file(settings))
    with MetricsLog(folder / "metrics.jsonl") as log:
        for step in range(1, 18):
            log.write(train_line(step, 300, 5, 2.5, random) | ({"loss": math.nan} if step > 13 else {}))
            if step > 13:
                message = f"the gradient is not finite; this step is skipped ({step - 13} of 4)"
                log.write({"step": step, "event": "nonfinite", "message": message})
    error = "the gradient was not finite in 4 steps in a row, up to step 17; lower <learning_rate> & try again"
    info = info_file(settings, status="failed", error=error, step=17, epoch=0.28, best=None, tokens_per_second=None)
    write_json(folder / "training_info.json", info)


def prefixed(values: Mapping[str, float]) -> dict[str, float]:
    return {f"eval_{name}": value for name, value in values.items()}


class Page(HTMLParser):
    """Checks that elements close in order, and keeps attributes and the text that a reader sees."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words.append(data)


def report(folder: Path) -> Page:
    text = write_report(folder).read_text()
    assert len(text) < 400_000
    assert "Undefined" not in text and "nan" not in re.findall(r'd="[^"]*', text)
    return Page(text)


@pytest.mark.parametrize("write", [classification_run, language_run, failed_run])
def test_the_report_needs_no_network(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path)
    text = write_report(tmp_path).read_text()
    assert not re.search(r"https?://|@import|url\(", text)
    assert not any(tag in ("link", "img", "iframe") or "src" in attributes for tag, attributes in Page(text).elements)


def test_a_finished_run_shows_numbers_curves_classes_and_what_to_type_next(tmp_path: Path) -> None:
    classification_run(tmp_path)
    page = report(tmp_path)
    for text in (
        "sentence-transformers/all-MiniLM-L6-v2 finished",
        "best accuracy 0.9",
        "duration 30:34",
        "tokens 4.91M in 61,725 samples",
        "padding 2.13% of all tokens",
        "Loss training",
        "Quality accuracy",
        "Gradient norm",
        "Most often confused",
        "resumed from checkpoint-200",
        "6 checkpoints, the last at step 300",
        "2 × NVIDIA H100 80GB HBM3",
        "4 = 2 × 2",
        'AutoModelForSequenceClassification.from_pretrained("final")',
    ):
        assert text in page.text
    assert "%" not in {text for tag, a in page.elements if tag == "path" for text in a["d"] or ""}


def test_it_says_how_many_nodes_took_part_when(tmp_path: Path) -> None:
    language_run(tmp_path)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    resumed = {"step": 40, "event": "resume", "attempt": 2, "processes": 4, "nodes": 2, "absent": [1, 3]}
    with MetricsLog(tmp_path / "new") as log:
        for line in lines:
            log.write(line | ({"nodes": 2 if 40 < line["step"] <= 90 else 4} if "loss" in line else {}))
            if line["step"] == 40:
                log.write(resumed)
    (tmp_path / "new").rename(tmp_path / "metrics.jsonl")
    page = report(tmp_path)
    assert "nodes 4 in steps 1 to 40, 2 in steps 41 to 90, 4 in steps 91 to 120" in page.text
    assert "resumed attempt 2, processes 4, nodes 2, absent 1, 3" in page.text


def test_settings_that_differ_from_their_default_stand_out(tmp_path: Path) -> None:
    classification_run(tmp_path)
    text = write_report(tmp_path).read_text()
    changed = set(re.findall(r'<dt class="changed">(\w+)</dt><dd class="changed">([^<]*)', text))
    assert changed == {
        ("name", "sentence-transformers/all-MiniLM-L6-v2"),
        ("tokens", "8192"),
        ("micro_batches", "4"),
        ("epochs", "5"),
        ("warmup_fraction", "0.1"),
    }
    assert "<dt>learning_rate</dt><dd>5e-05</dd>" in text


def test_a_language_model_shows_perplexity_and_no_classes(tmp_path: Path) -> None:
    language_run(tmp_path)
    page = report(tmp_path)
    assert "perplexity 4.87 at the end" in page.text
    assert "Token accuracy" in page.text
    assert "Classes" not in page.text
    assert "AutoModelForCausalLM" in page.text


def test_a_failed_run_shows_its_error_as_text_and_how_to_go_on(tmp_path: Path) -> None:
    failed_run(tmp_path)
    page = report(tmp_path)
    assert "lower <learning_rate> & try again" in page.text
    assert "non-finite × 4" in page.text
    assert "step" in page.text and "17 of 300, epoch 0.28" in page.text
    assert "distrain train run.yaml --schedule.epochs 5 --resume" in page.text


@pytest.mark.parametrize("missing", ["settings.json", "metrics.jsonl", "training_info.json"])
def test_a_missing_file_leaves_out_what_it_holds(tmp_path: Path, missing: str) -> None:
    classification_run(tmp_path)
    (tmp_path / missing).unlink()
    assert "sentence-transformers/all-MiniLM-L6-v2" in report(tmp_path).text


def test_an_empty_folder_has_a_report(tmp_path: Path) -> None:
    assert "not started" in report(tmp_path).text


def test_a_run_of_one_step_has_a_report(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        log.write({"step": 1, "loss": 0.0, "tokens_per_second": None})
    assert "Loss training 0" in report(tmp_path).text


def test_a_killed_run_shows_the_steps_after_its_last_word(tmp_path: Path) -> None:
    failed_run(tmp_path)
    write_json(tmp_path / "training_info.json", {"status": "running", "step": 5, "steps": 300})
    page = report(tmp_path)
    assert "steps 17 of 300" in page.text
    assert "If it was interrupted, resume from the last checkpoint" in page.text


def test_fifty_classes_and_many_steps_stay_small(tmp_path: Path) -> None:
    classification_run(tmp_path, labels=[f"class number {index}" for index in range(50)], steps=20_000)
    page = report(tmp_path)
    assert "class number 49" in page.text


def test_of_many_classes_the_most_frequent_are_drawn(tmp_path: Path) -> None:
    classification_run(tmp_path, labels=[f"topic {index}" for index in range(150)], steps=20)
    assert "The 60 most frequent of 150 classes." in report(tmp_path).text


def test_of_many_classes_with_long_names_the_table_shows_the_most_frequent(tmp_path: Path) -> None:
    labels = [f"a long class name {'of_many_words_' * 12}{index}" for index in range(400)]
    classification_run(tmp_path, labels=labels, steps=20)
    text = write_report(tmp_path).read_text()
    assert text.count('<td class="label" title=') == 40
    assert "The 40 most frequent classes; 360 more are counted in training_info.json." in Page(text).text
    shown = re.findall(r"<(?:td|b|text)\b[^>]*>(a long class [^<]*)<", text)
    assert shown and max(map(len, shown)) <= 32 and all(re.search(r"\d$", name) for name in shown)


def test_few_classes_fit_a_phone(tmp_path: Path) -> None:
    for count, drawn in ((3, "matrix"), (12, "matrix large")):  # a large one scrolls
        classification_run(tmp_path, labels=TOPICS[:count], steps=20)
        assert drawn in [attributes.get("class") for tag, attributes in report(tmp_path).elements if tag == "svg"]


def test_a_stop_by_hand_is_called_one(tmp_path: Path) -> None:
    classification_run(tmp_path, steps=20)
    with MetricsLog(tmp_path / "metrics.jsonl") as log:
        log.write({"step": 20, "event": "interrupted"})
    assert "20 stopped by hand" in report(tmp_path).text


def test_axes_say_what_they_count_and_short_times_are_readable(tmp_path: Path) -> None:
    classification_run(tmp_path)
    page = report(tmp_path)
    assert "cross entropy, nats step" in page.text and "waiting for data 20 ms" in page.text
    assert svg.with_unit(3.03e-5, " s") == "30.3 µs" and svg.with_unit(2.5, " s") == "2.5 s"
    assert svg.with_unit(0, " s") == "0 s" and svg.with_unit(3e-5, "") == "3e-5"


def test_labels_and_names_are_text_not_html(tmp_path: Path) -> None:
    classification_run(tmp_path, labels=["<script>alert(1)</script>", "a & b"], steps=20)
    text = write_report(tmp_path).read_text()
    assert "<script>alert" not in text
    assert "a & b" in Page(text).text


def test_a_thinned_line_keeps_its_spikes() -> None:
    values = np.zeros(50_000)
    values[31_234] = 7
    values[100:200] = np.nan
    steps, kept = svg.thin_spiky(np.arange(50_000), values)
    assert len(steps) <= svg.POINTS
    assert (np.diff(steps) > 0).all()
    assert kept.max(initial=0, where=np.isfinite(kept)) == 7


def test_a_smoothed_line_keeps_level_ends_and_gaps() -> None:
    values = np.full(400, 3.0)
    values[50:100] = np.nan
    smoothed = svg.smooth(values)
    assert np.array_equal(np.isnan(smoothed), np.isnan(values))
    assert np.allclose(smoothed[np.isfinite(smoothed)], 3.0)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, 300, [0, 50, 100, 150, 200, 250, 300]), (0.11, 0.13, None)],
)
def test_ticks_are_round_numbers_within_the_range(low: float, high: float, expected: list[float] | None) -> None:
    found = svg.ticks(low, high, 6 if high == 300 else 5)
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in found)
    assert 3 <= len(found) <= 9
    if expected:
        assert found == pytest.approx(expected)
