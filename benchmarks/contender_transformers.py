"""A contender: transformers' Trainer as it comes, on the token rows that distrain trains on.

What is not its default: the batch size per process, the collator that pads to the longest row of a batch, fp32 on the
CPU, no checkpoints and no report (both in its favour). Under torchrun each process writes its own result.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from distrain_trainer.data.rows import Rows
from distrain_trainer.memory.model_shapes import sample_model
from distrain_trainer.settings.reader import read_settings
from rows import token_rows
from running import Steps


class CountingCollator(DataCollatorWithPadding):
    """Pads, and remembers (samples, tokens, padded tokens) of each batch."""

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        batch = super().__call__(features)
        mask = batch["attention_mask"]
        self.seen = [*getattr(self, "seen", []), (len(mask), int(mask.sum()), mask.numel())]
        return batch


class Clock(TrainerCallback):
    """When each step ended, and what each evaluation found after how many seconds, with and without evaluations."""

    def __init__(self) -> None:
        self.step_ends: list[float] = []
        self.evaluations: list[dict[str, float]] = []
        self.began = self.evaluating = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.step_ends.append(time.perf_counter())

    def on_evaluate(self, args: Any, state: Any, control: Any, **found: Any) -> None:
        metrics = found["metrics"]
        self.evaluating += metrics["eval_runtime"]
        wall = time.perf_counter() - self.began
        self.evaluations.append(
            {
                "epoch": state.epoch,
                "accuracy": metrics["eval_accuracy"],
                "training": wall - self.evaluating,
                "wall": wall,
            }
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("settings", help="distrain's settings file: data, seed, epochs or max_steps")
    parser.add_argument("--batch", type=int, required=True, help="samples per process and step")
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--grouped", action="store_true", help="group rows by length")
    parser.add_argument("--onednn", action="store_true", help="multiply with oneDNN, as distrain may")
    parser.add_argument("--evaluate", action="store_true", help="evaluate at the end of each epoch")
    parser.add_argument("--result", type=Path, required=True, help="folder that steps or evaluations go to")
    options = parser.parse_args()

    if options.onednn:
        torch.set_float32_matmul_precision("medium")
    settings = read_settings(options.settings, {})
    tokenizer, data = token_rows(settings)
    set_seed(settings.seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        sample_model(), num_labels=len(data.label_names or ()), ignore_mismatched_sizes=True
    )
    collator, clock = CountingCollator(tokenizer), Clock()
    trainer = Trainer(
        model,
        TrainingArguments(
            output_dir=str(options.result / "trainer"),
            per_device_train_batch_size=options.batch,
            learning_rate=options.learning_rate,
            num_train_epochs=settings.schedule.epochs,
            max_steps=settings.schedule.max_steps or -1,
            train_sampling_strategy="group_by_length" if options.grouped else "random",
            eval_strategy="epoch" if options.evaluate else "no",
            save_strategy="no",
            report_to="none",
            use_cpu=True,
            seed=settings.seed,
        ),
        data_collator=collator,
        train_dataset=features(data.train),
        eval_dataset=features(data.evaluation) if options.evaluate and data.evaluation else None,
        processing_class=tokenizer,
        compute_metrics=lambda found: {"accuracy": float((np.argmax(found.predictions, -1) == found.label_ids).mean())},
        callbacks=[clock],
    )
    trainer.train()
    if options.evaluate:
        (options.result / "evaluations.json").write_text(json.dumps(clock.evaluations))
        return
    steps = Steps()
    for ended, counts in zip(clock.step_ends, collator.seen, strict=False):  # batches are collated one ahead
        steps.add(ended, *counts)
    steps.write(options.result / f"steps-{os.environ.get('RANK', 0)}.json")


def features(rows: Rows) -> list[dict[str, Any]]:
    """The rows as Trainer takes them."""
    assert rows.labels is not None
    spans = zip(rows.offsets[:-1], rows.offsets[1:], rows.labels, strict=True)
    return [{"input_ids": rows.input_ids[start:end].tolist(), "labels": int(label)} for start, end, label in spans]


if __name__ == "__main__":
    main()
