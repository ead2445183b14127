"""Evaluate a trained model: on the rows of a file, or on those that its run held out. One process."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from distrain_trainer.console import a_few, say
from distrain_trainer.data.inputs import inputs_of
from distrain_trainer.data.loader import Collator
from distrain_trainer.data.mix import prepare_all
from distrain_trainer.data.plan import MicroBatches
from distrain_trainer.data.rows import Rows
from distrain_trainer.data.sources import is_sample, label_column, locate, read
from distrain_trainer.data.tokens import encode
from distrain_trainer.errors import DataError
from distrain_trainer.inference.trained import Trained, load, tell_model
from distrain_trainer.models.load import load_model, resolve
from distrain_trainer.models.lora import is_adapter
from distrain_trainer.models.loss import SummedLoss
from distrain_trainer.parallel.collectives import ProcessRank
from distrain_trainer.settings.model import Settings, changed
from distrain_trainer.tasks.table import TASKS
from distrain_trainer.training.comparing import Forward, log_probabilities
from distrain_trainer.training.evaluation import evaluate, plan_evaluation
from distrain_trainer.training.further import further_of
from distrain_trainer.training.probes import choose_loss
from distrain_trainer.training.writing import Writing


def evaluate_folder(
    path: str, file: str | None, flags: dict[str, str], checkpoint: str | None = None
) -> dict[str, Any]:
    """Metrics of a trained model on the evaluation rows of its own run, or on other data.

    Other data is `file`, or what flags name: all rows of data.files; of a data set on the Hub its evaluation split, or
    all rows where it has one split alone. checkpoint: which of a run's models to take.
    """
    alone = {
        "data.files": ("data.name", "data.mix"),
        "data.name": ("data.files", "data.mix", "data.evaluation_files", "data.revision"),
    }
    unset = {other: "null" for name, others in alone.items() if name in flags for other in others}
    trained = load(path, unset | flags, checkpoint)
    tell_model(path, trained.folder)
    settings = trained.settings
    if file is not None or "data.files" in flags or "data.name" in flags:
        settings = trained.settings_for([file] if file is not None else settings.data.files or ())
        if file is None and "data.files" not in flags:
            settings = changed(trained.settings, {"data.evaluation_fraction": 0.0, "data.evaluation_files": None})
        if "evaluation.samples" not in flags:
            settings = changed(settings, {"evaluation.samples": None})
        rows, named = other_rows(trained, settings)
    else:
        rows, named = evaluation_rows(trained), "the evaluation rows of the run"
    further = further_of(settings, rows, trained.labels)
    planned = plan_evaluation(rows.sizes, settings)
    say(f"evaluating on {len(planned.rows):,} of {len(rows):,} rows: {named}")
    if settings.facts.compares and settings.preference.has_reference:
        rows = replace(rows, reference=reference_of(trained, settings, planned, rows))
    forward, collator = prepared(trained, trained.model, settings, rows, whole=further.take_scores)
    process = ProcessRank(0, 1, 0, 1)
    writing = Writing.of(settings, collator, planned, trained.tokenizer)
    found = evaluate(
        forward,
        planned,
        collator,
        process,
        trained.labels,
        further=further,
        say=say,
        writing=writing,
        preference=settings.preference,
    )
    assert found is not None
    return {"model": str(trained.folder), "rows": len(planned.rows)} | found.metrics


def prepared(
    trained: Trained, model: Any, settings: Settings, rows: Rows, whole: bool = False
) -> tuple[Forward, Collator]:
    """The forward pass of an evaluation of `model`, and the collator of its rows. whole: as of SummedLoss."""
    preference = settings.preference if settings.facts.compares else None
    module = SummedLoss(model, settings.precision, TASKS[settings.task], whole=whole, preference=preference).eval()

    def forward(micro_batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        loss, predictions = module(**{name: tensor.to(trained.device) for name, tensor in micro_batch.items()})
        return loss, predictions

    collator = Collator.of(settings, rows, trained.tokenizer)
    choose_loss(settings, module, module, collator, say)
    return forward, collator


def reference_of(trained: Trained, settings: Settings, planned: MicroBatches, rows: Rows) -> np.ndarray:
    """How likely the model that was trained found each answer before: fp32 [rows, 2]."""
    process = ProcessRank(0, 1, 0, 1)
    if is_adapter(trained.model):
        with trained.model.disable_adapter():
            forward, collator = prepared(trained, trained.model, settings, rows)
            return log_probabilities(forward, planned, collator, process)
    base = load_model(settings, *resolve(settings.model), trained.tokenizer, None).to(trained.device)
    forward, collator = prepared(trained, base, settings, rows)
    return log_probabilities(forward, planned, collator, process)


def evaluation_rows(trained: Trained) -> Rows:
    """The evaluation rows of the run that made the model."""
    if not trained.record and is_sample(trained.settings.data):
        raise DataError(f"{trained.folder} has no evaluation rows of its own; give a file to evaluate on, or data.name")
    data = prepare_all(trained.settings, trained.tokenizer, trained.max_length, say)
    if data.evaluation is None:
        raise DataError(f"the run of {trained.folder} had no evaluation rows; give a file to evaluate on")
    return data.evaluation


def other_rows(trained: Trained, settings: Settings) -> tuple[Rows, str]:
    """The rows of other data than the run's own, labelled with the model's own ids, and what they are called."""
    origin = locate(settings.data)
    labelled = TASKS[settings.task].labelled
    if labelled is None:
        made = prepare_all(settings, trained.tokenizer, trained.max_length, say)
        return made.evaluation or made.train, origin.description
    with TemporaryDirectory(prefix="distrain-") as scratch:
        splits = read(settings, origin, Path(scratch), say)
        part = (splits.evaluation or splits.train).named("evaluation")
        labels = labelled.read(label_column(part, settings))
        unknown = sorted(labels.used() - set(trained.labels))
        if unknown:
            raise DataError(
                f"{part.source.name} has labels that the model does not know: {a_few(unknown)}; the model knows "
                f"{a_few(trained.labels)}: remove the rows, or name another data.label_column"
            )
        inputs = [one for batch in inputs_of(part, settings) for one in batch]
        encoded = labelled.encode(labels.values, trained.labels)
        return encode(inputs, settings, trained.tokenizer, trained.max_length, encoded), origin.description
