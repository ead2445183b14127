"""Each task trains the same: as a plain loop over whole steps with transformers' own loss, on any number of processes,
under every strategy; and it evaluates the same.

One process is part of `make test`; `make test-matrix` has all.
"""

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

import labelled
import tiny
from cells import STRATEGIES, Cell, cell, launch
from distrain_trainer.data.loader import Collator
from distrain_trainer.data.tokens import prepare
from distrain_trainer.models.load import load_config, load_model, load_tokenizer, longest_row
from distrain_trainer.settings.reader import read_settings
from distrain_trainer.tasks.weights import class_weights
from distrain_trainer.training.planning import plan_of
from runs import losses, metrics

STEPS = 8
Reference = Callable[[Any, dict[str, torch.Tensor], torch.Tensor, torch.Tensor | None], torch.Tensor]
"""The mean loss of a batch: of a model, its inputs, the labels, and the weights of classes."""


def of_transformers(model: Any, inputs: Any, labels: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """What transformers computes by the model's own configuration."""
    loss: torch.Tensor = model(**inputs, labels=labels).loss
    return loss


def of_torch(model: Any, inputs: Any, labels: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Weighted and smoothed, which transformers does not do."""
    logits = model(**inputs).logits
    return torch.nn.functional.cross_entropy(logits, labels, weight=weights, label_smoothing=0.1)


@dataclass(frozen=True)
class Case:
    """A task on its data. more: settings by dotted names. model: which of `models`. parts: whether the reference is
    told the rows of each micro-batch."""

    make: Callable[[Any], labelled.Row]
    task: str = "sequence-classification"
    more: dict[str, Any] = field(default_factory=dict)
    reference: Reference = of_transformers
    model: str = "bert"
    parts: bool = False


def of_floats(model: Any, inputs: Any, labels: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Transformers' own, which takes labels of a multi-label classification as fractions."""
    return of_transformers(model, inputs, labels.float(), weights)


def of_positives(model: Any, inputs: Any, labels: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """Each label's rows weighted, over the sum of the weights."""
    assert weights is not None
    entropy = torch.nn.BCEWithLogitsLoss(pos_weight=weights, reduction="sum")
    loss: torch.Tensor = entropy(model(**inputs).logits, labels.float())
    mean: torch.Tensor = loss / (labels * weights + 1 - labels).sum()
    return mean


def answer_logps(model: Any, inputs: Any, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The log-probability of each answer, and its tokens: [2, pairs]."""
    logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    each = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    said = labels >= 0
    return (each * said).sum(1).view(2, -1), said.sum(1).view(2, -1)


def of_answers(model: Any, inputs: Any, labels: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """The loss of DPO; the first model that is seen is the reference."""
    if not hasattr(model, "reference"):
        model.reference = [copy.deepcopy(model).eval()]  # in a list, so as not to be a part of the model
    logps, _ = answer_logps(model, inputs, labels)
    with torch.no_grad():
        before, _ = answer_logps(model.reference[0], inputs, labels)
    gained = logps - before
    return -torch.nn.functional.logsigmoid(0.1 * (gained[0] - gained[1])).mean()


def of_odds(model: Any, inputs: Any, labels: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """The loss of ORPO, by its definition."""
    logps, tokens = answer_logps(model, inputs, labels)
    mean = (logps / tokens).exp()
    odds = (mean / (1 - mean)).log()
    pairs = logps.shape[1]
    chosen, mask = inputs["input_ids"][:pairs], inputs["attention_mask"][:pairs]
    entropy: torch.Tensor = model(
        input_ids=chosen, attention_mask=mask, labels=torch.where(mask.bool(), chosen, -100)
    ).loss
    return entropy - 0.1 * torch.nn.functional.logsigmoid(odds[0] - odds[1]).mean()


def of_judged(model: Any, inputs: Any, labels: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
    """The loss of KTO, by its definition; the first model that is seen is the reference."""
    if not hasattr(model, "reference"):
        model.reference = [copy.deepcopy(model).eval()]
    logps, _ = answer_logps(model, inputs, labels)
    with torch.no_grad():
        before, _ = answer_logps(model.reference[0], inputs, labels)
    (gains, others), losses, first = logps - before, [], 0
    for rows in inputs["parts"].tolist():
        part = slice(first, first + rows)
        over = 0.1 * (gains[part] - others[part].detach().mean().clamp(min=0))
        good = inputs["desirable"][part] == 1
        losses.append(torch.where(good, 1 - over.sigmoid(), 1.5 * (1 - (-over).sigmoid())))
        first += rows
    return torch.cat(losses).mean()


COMPARED = {"data.max_length": 64, "batch.tokens": 1024}
JUDGED = COMPARED | {"preference.method": "kto", "preference.undesirable_weight": 1.5}
WEIGHTED = {"loss.class_weights": "balanced", "loss.label_smoothing": 0.1}
WRITTEN = {"data.max_target_length": 16, "evaluation.generations": 12}
CASES = {
    "pairs": Case(labelled.pair, more=labelled.PAIRS),
    "several labels": Case(labelled.topics, "multi-label-classification", reference=of_floats),
    "weighted labels": Case(
        labelled.topics, "multi-label-classification", {"loss.class_weights": "balanced"}, of_positives
    ),
    "numbers": Case(labelled.stars, "regression"),
    "levels": Case(labelled.stars, "ordinal-regression"),
    "tags": Case(labelled.people, "token-classification", {"data.max_length": 16}),
    "weights": Case(labelled.uneven, more=WEIGHTED, reference=of_torch),
    "answers": Case(labelled.answers, "preference", COMPARED, of_answers, "llama"),
    "odds of answers": Case(labelled.answers, "preference", COMPARED | {"preference.method": "orpo"}, of_odds, "llama"),
    "judged answers": Case(labelled.judged, "preference", JUDGED, of_judged, "llama", parts=True),
    "targets": Case(labelled.first_words, "sequence-to-sequence", WRITTEN, model="t5"),
}


Models = dict[str, Path]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Small models without dropout; the encoder tells two texts apart."""
    bert = tiny.tiny_bert(tmp_path_factory.mktemp("bert"), dropout=0.0)
    labelled.of_pairs().save_pretrained(bert)
    t5 = tiny.tiny_t5(tmp_path_factory.mktemp("t5"), dropout=0.0)
    return {"bert": bert, "t5": t5, "llama": tiny.tiny_llama(tmp_path_factory.mktemp("llama"))}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    return {name: labelled.written(folder / f"{name}.jsonl", 150, case.make) for name, case in CASES.items()}


def cell_of(name: str, models: Models, files: dict[str, Path], output: Path, kind: str) -> Cell:
    model, task = models[CASES[name].model], CASES[name].task
    one = cell(model, files[name], output, task=task, strategy__kind=kind, data__evaluation_fraction=0.2)
    more = {"schedule.max_steps": STEPS, "batch.micro_batches": 5, "batch.samples": 7, "optimizer.learning_rate": 1e-3}
    one["settings"] |= {setting: str(value) for setting, value in (more | CASES[name].more).items()}
    return one


@pytest.fixture(scope="module")
def by_hand(
    models: Models, files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[int, float]]:
    """Case -> step -> loss of a plain loop: each step's rows as one batch, transformers' own loss."""
    found: dict[str, dict[int, float]] = {}
    for name, case in CASES.items():
        folder = str(models[case.model])
        asked = cell_of(name, models, files, tmp_path_factory.mktemp("no"), "single")["settings"]
        settings = read_settings(None, asked)
        tokenizer = load_tokenizer(folder, None)
        longest = longest_row(settings, load_config(folder, None), tokenizer)
        data = prepare(settings, tokenizer, longest, lambda text: None)
        weights = class_weights(settings, data.train.labels, data.label_names or ())
        model = load_model(settings, folder, None, tokenizer, data.label_names).train()
        groups = [
            {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.1},
            {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=1e-3)
        plan, collator = plan_of(settings, data.train), Collator.of(settings, data.train, tokenizer)
        found[name] = {}
        for number in range(STEPS):
            step = plan.step(number)
            batch = collator(step.rows, step.epoch)
            labels = batch.pop("labels")
            if case.parts:
                batch["parts"] = torch.tensor([len(step.planned[index]) for index in step.indices])
            loss = case.reference(model, batch, labels, None if weights is None else torch.tensor(weights))
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.optimizer.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
            found[name][number + 1] = float(loss.detach())
    return found


CORRELATIONS = {"eval_pearson", "eval_spearman"}
"""After eight steps all predictions are nearly one number, and rounding decides on their order."""

DEALS: list[Any] = [
    (1, ("single",)),
    pytest.param((2, STRATEGIES), marks=pytest.mark.matrix),
    pytest.param((4, ("ddp", "zero2", "fsdp")), marks=[pytest.mark.matrix, pytest.mark.long]),
]
"""Processes and strategies."""


@pytest.fixture(scope="module", params=DEALS, ids=lambda deal: str(deal[0]))
def table(
    request: pytest.FixtureRequest, models: Models, files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, tuple[str, ...]]:
    """A folder with a run of each case under each strategy on some processes."""
    world, kinds = request.param
    folder = tmp_path_factory.mktemp("table")
    cells = [cell_of(name, models, files, folder / kind / name, kind) for kind in kinds for name in CASES]
    launch(world, cells, folder)
    return folder, kinds


@pytest.mark.parametrize("name", CASES)
def test_each_task_trains_as_a_plain_loop_with_the_whole_batch(
    table: tuple[Path, tuple[str, ...]], by_hand: dict[str, dict[int, float]], name: str
) -> None:
    folder, kinds = table
    for kind in kinds:
        assert losses(folder / kind / name) == pytest.approx(by_hand[name], abs=1e-5), kind


@pytest.fixture(scope="module")
def alone(models: Models, files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of each case on one process."""
    folder = tmp_path_factory.mktemp("alone")
    launch(1, [cell_of(name, models, files, folder / name, "single") for name in CASES], folder)
    return folder


@pytest.mark.matrix
@pytest.mark.parametrize("name", CASES)
def test_each_task_evaluates_the_same_everywhere(table: tuple[Path, tuple[str, ...]], alone: Path, name: str) -> None:
    folder, kinds = table
    wanted = [line for line in metrics(alone / name) if "eval_loss" in line]
    assert wanted and wanted[-1]["step"] == STEPS
    for kind in kinds:
        found = [line for line in metrics(folder / kind / name) if "eval_loss" in line]
        for ours, theirs in zip(found, wanted, strict=True):
            for measure in CORRELATIONS & set(theirs):
                assert ours.pop(measure) == pytest.approx(theirs[measure], abs=0.05), (kind, measure)
            assert ours == pytest.approx({key: theirs[key] for key in ours}, abs=1e-5, rel=1e-6, nan_ok=True), kind
            assert set(ours) | CORRELATIONS >= set(theirs), kind
        answers = [
            json.loads((run / "training_info.json").read_text())["answers"]
            for run in (alone / name, folder / kind / name)
        ]
        assert answers[0] == answers[1], kind


@pytest.mark.matrix
def test_each_task_goes_on_under_another_strategy(
    models: Models, files: dict[str, Path], alone: Path, tmp_path: Path
) -> None:
    """Begun by one process, continued by two."""
    begun = [cell_of(name, models, files, tmp_path / "begun" / name, "single") for name in CASES]
    for one in begun:
        one["settings"]["schedule.max_steps"] = str(STEPS // 2)
    launch(1, begun, tmp_path)
    resumed = []
    for name in CASES:
        output = shutil.copytree(tmp_path / "begun" / name, tmp_path / "fsdp" / name)
        resumed.append(cell_of(name, models, files, output, "fsdp") | {"resume": True})
    launch(2, resumed, tmp_path)
    for name in CASES:
        assert losses(tmp_path / "fsdp" / name) == pytest.approx(losses(alone / name), abs=1e-5), name
