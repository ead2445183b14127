"""Evaluate a trained model: on the rows of a file, or on those that its run held out. One process."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from distrain_trainer.console import say
from distrain_trainer.data.labels import read_labels
from distrain_trainer.data.loader import Collator
from distrain_trainer.data.sources import LABEL_COLUMNS, TEXT_COLUMNS, find_column, locate, read
from distrain_trainer.data.tokens import Rows, encode, prepare
from distrain_trainer.errors import DataError
from distrain_trainer.inference.trained import Trained, load
from distrain_trainer.models.loss import SummedLoss
from distrain_trainer.parallel.collectives import ProcessRank
from distrain_trainer.training.evaluation import evaluate, plan_evaluation
from distrain_trainer.training.probes import choose_loss


def evaluate_folder(path: str, file: str | None, flags: dict[str, str]) -> dict[str, Any]:
    """Metrics of a trained model on all rows of `file`, or without one on the evaluation rows of its own run."""
    trained = load(path, flags)
    rows = rows_of_file(trained, file) if file else evaluation_rows(trained)
    module = SummedLoss(trained.model, trained.settings.precision).eval()

    def forward(micro_batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        loss, predictions = module(**{name: tensor.to(trained.device) for name, tensor in micro_batch.items()})
        return loss, predictions

    planned = plan_evaluation(rows.lengths, trained.settings)
    collator = Collator.of(trained.settings, rows, trained.tokenizer)
    choose_loss(trained.settings, module, module, collator, say)
    found = evaluate(forward, planned, collator, ProcessRank(0, 1, 0, 1), len(trained.labels or ()))
    assert found is not None
    return {"model": str(trained.folder), "rows": len(planned.rows)} | found.metrics


def evaluation_rows(trained: Trained) -> Rows:
    """The evaluation rows of the run that made the model."""
    data = prepare(trained.settings, trained.tokenizer, trained.max_length, say)
    if data.evaluation is None:
        raise DataError(f"the run of {trained.folder} had no evaluation rows; give a file to evaluate on")
    return data.evaluation


def rows_of_file(trained: Trained, file: str) -> Rows:
    """All rows of a file, labelled with the model's own ids."""
    settings = trained.settings_for(file)
    if trained.labels is None:
        return prepare(settings, trained.tokenizer, trained.max_length, say).train
    with TemporaryDirectory(prefix="distrain-") as scratch:
        opened = read(settings.data, locate(settings.data), settings.task, Path(scratch), say).train
        texts = opened[find_column(opened, settings.data.text_column, TEXT_COLUMNS, "data.text_column")]
        label_column = find_column(opened, settings.data.label_column, LABEL_COLUMNS, "data.label_column")
        names, _ = read_labels(opened, label_column, "evaluation")
        unknown = sorted(set(names) - set(trained.labels))
        if unknown:
            raise DataError(
                f"{file} has labels that the model does not know: {', '.join(map(repr, unknown))}; remove their rows"
            )
        rows = encode([text or "" for text in texts], settings, trained.tokenizer, trained.max_length)
    ids = np.asarray([trained.labels.index(name) for name in names], np.int32)
    return Rows(rows.input_ids, rows.offsets, ids, rows.words)
