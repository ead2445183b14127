"""Every strategy trains the same: the table strategy x world x dealing, and resumes from any of them under any other.

Worlds 1 and 2 and one resume on 4 processes are part of `make test`; `make test-matrix` has all.
"""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn import metrics as sklearn_metrics
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import tiny
from cells import STRATEGIES, Cell, cell, launch
from distrain_trainer.data.loader import Collator
from distrain_trainer.data.rows import Rows
from distrain_trainer.data.tokens import Tokenized, prepare
from distrain_trainer.metrics.metrics import AVERAGES
from distrain_trainer.models.load import load_config, load_model, load_tokenizer, longest_row
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.reader import read_settings
from distrain_trainer.training.planning import plan_of
from runs import losses, metrics, tensors

BOTH = ("sgd", "adamw")
DEALS = [
    (2, 5, BOTH),
    pytest.param((1, 4, ("sgd",)), marks=pytest.mark.matrix),
    *(pytest.param((*deal, BOTH), marks=pytest.mark.matrix) for deal in ((1, 5), (2, 4), (4, 4), (4, 5))),
]
"""Processes, micro_batches that they divide or do not, and optimizers."""
OPTIMIZERS = {"sgd": 0.02, "adamw": 1e-3}
STEPS = 20


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small encoder without dropout, which a step's whole batch at once would draw otherwise."""
    return tiny.tiny_bert(tmp_path_factory.mktemp("still"), dropout=0.0)


def dealt(model: Path, texts: Path, output: Path, optimizer: str, micro_batches: int, strategy: str) -> Cell:
    return cell(
        model,
        texts,
        output / f"{optimizer}-{micro_batches}",
        strategy__kind=strategy,
        optimizer__name=optimizer,
        optimizer__learning_rate=OPTIMIZERS[optimizer],
        optimizer__momentum=0.9 if optimizer == "sgd" else 0,
        batch__micro_batches=micro_batches,
        batch__samples=None if micro_batches == 4 else 7,
        data__evaluation_fraction=0.15,
        schedule__max_steps=STEPS,
    )


def prepared(model: Path, settings: Settings) -> tuple[Any, Tokenized]:
    """The tokenizer and the rows of a cell."""
    tokenizer = load_tokenizer(str(model), None)
    longest = longest_row(settings, load_config(str(model), None), tokenizer)
    return tokenizer, prepare(settings, tokenizer, longest, lambda text: None)


@pytest.fixture(scope="module")
def by_hand(still: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Any]:
    """(optimizer, micro_batches) -> steps and final weights of a plain loop: each step's rows as one batch."""
    found = {}
    for optimizer_name, rate in OPTIMIZERS.items():
        for micro_batches in (4, 5):
            one = dealt(still, texts, tmp_path_factory.mktemp("by-hand"), optimizer_name, micro_batches, "single")
            settings = read_settings(None, one["settings"])
            tokenizer, data = prepared(still, settings)
            model = load_model(settings, str(still), None, tokenizer, data.label_names).train()
            groups = [
                {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.1},
                {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
            ]
            optimizer = (
                torch.optim.SGD(groups, lr=rate, momentum=0.9)
                if optimizer_name == "sgd"
                else torch.optim.AdamW(groups, lr=rate)
            )
            plan, collator = plan_of(settings, data.train), Collator.of(settings, data.train, tokenizer)
            steps = {}
            for number in range(STEPS):
                step = plan.step(number)
                batch = collator(step.rows, step.epoch)
                labels = batch.pop("labels")
                loss = torch.nn.functional.cross_entropy(model(**batch).logits, labels)
                torch.autograd.backward(loss)
                norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.optimizer.max_grad_norm)
                optimizer.step()
                optimizer.zero_grad()
                steps[number + 1] = {"loss": float(loss.detach()), "grad_norm": float(norm)}
            found[optimizer_name, micro_batches] = steps, model.state_dict()
    return found


@pytest.fixture(scope="module", params=DEALS, ids=lambda deal: "{}-{}".format(*deal[:2]))
def table(
    request: pytest.FixtureRequest, still: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, int, tuple[str, ...]]:
    """A folder with a run for each strategy and optimizer on some processes, their micro_batches, the optimizers."""
    world, micro_batches, optimizers = request.param
    folder = tmp_path_factory.mktemp("table")
    cells = [dealt(still, texts, folder / s, o, micro_batches, s) for s in STRATEGIES for o in optimizers]
    launch(world, cells, folder)
    return folder, micro_batches, optimizers


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_strategy_trains_as_one_process_with_the_whole_batch(
    table: tuple[Path, int, tuple[str, ...]], by_hand: dict[tuple[str, int], Any], strategy: str
) -> None:
    folder, micro_batches, optimizers = table
    for optimizer in optimizers:
        wanted, weights = by_hand[optimizer, micro_batches]
        output = folder / strategy / f"{optimizer}-{micro_batches}"
        found = {line["step"]: line for line in metrics(output) if "loss" in line}
        assert found.keys() == wanted.keys()
        assert max(abs(found[step]["loss"] - wanted[step]["loss"]) for step in wanted) < 1e-5
        assert max(abs(found[step]["grad_norm"] / wanted[step]["grad_norm"] - 1) for step in wanted) < 1e-4
        if optimizer == "sgd":
            trained = tensors(output / "final")
            assert trained.keys() == weights.keys()
            assert max(float((trained[name] - weights[name]).abs().max()) for name in weights) < 1e-6


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_strategy_evaluates_every_row_once_and_gives_scikit_learns_numbers(
    table: tuple[Path, int, tuple[str, ...]], still: Path, strategy: str
) -> None:
    folder, micro_batches, optimizers = table
    for optimizer in optimizers:
        output = folder / strategy / f"{optimizer}-{micro_batches}"
        asked = json.loads((output / "settings.json").read_text())["settings"]
        _, data = prepared(still, Settings.model_validate(asked))
        rows = data.evaluation
        assert rows is not None and rows.labels is not None and len(rows) == 90
        model = AutoModelForSequenceClassification.from_pretrained(output / "final").eval()
        with torch.no_grad():
            logits = [model(torch.from_numpy(ids)[None]).logits for ids in ids_of(rows)]
        scores = torch.cat(logits).softmax(-1).numpy()
        predicted = scores.argmax(-1)
        assert (optimizer, micro_batches) != ("adamw", 4) or len(set(predicted)) > 1  # the others learn too little
        wanted = {
            "eval_accuracy": sklearn_metrics.accuracy_score(rows.labels, predicted),
            "eval_loss": sklearn_metrics.log_loss(rows.labels, scores, labels=range(len(data.label_names or ()))),
        }
        for average in AVERAGES:
            scored = sklearn_metrics.precision_recall_fscore_support(
                rows.labels, predicted, average=average, zero_division=0
            )
            names = (f"eval_{score}_{average}" for score in ("precision", "recall", "f1"))
            wanted |= dict(zip(names, scored, strict=False))
        found = [line for line in metrics(output) if "eval_loss" in line][-1]
        assert {name: found[name] for name in wanted} == pytest.approx(wanted, abs=1e-5)
        counts = json.loads((output / "training_info.json").read_text())["confusion_matrix"]["counts"]
        assert counts == sklearn_metrics.confusion_matrix(rows.labels, predicted).tolist()


def ids_of(rows: Rows) -> list[np.ndarray]:
    """The tokens of each row, int64."""
    spans = zip(rows.offsets[:-1], rows.offsets[1:], strict=True)
    return [rows.input_ids[start:end].astype(np.int64) for start, end in spans]


@pytest.mark.matrix
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_resume_on_four_processes_is_bit_exact(strategy: str, bert: Path, texts: Path, tmp_path: Path) -> None:
    options = {"strategy__kind": strategy, "batch__micro_batches": 6, "optimizer__learning_rate": 1e-3}
    whole = cell(bert, texts, tmp_path / "whole", schedule__max_steps=10, **options)
    first = cell(bert, texts, tmp_path / "broken", schedule__max_steps=5, **options)
    second = cell(bert, texts, tmp_path / "broken", schedule__max_steps=10, **options) | {"resume": True}
    launch(4, [whole, first, second], tmp_path)
    one, other = (tensors(tmp_path / name / "checkpoint-10") for name in ("whole", "broken"))
    assert one.keys() == other.keys() and any(name.endswith("/exp_avg_sq") for name in one)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert losses(tmp_path / "whole") == losses(tmp_path / "broken")


WRITERS = {"single": 1, "ddp": 2, "zero1": 2, "zero2": 4, "zero3": 2, "fsdp": 4}
READERS = {"single": 1, "ddp": 4, "zero1": 4, "zero2": 2, "zero3": 4, "fsdp": 2}
"""Strategy -> processes."""
MOVED = {"batch__micro_batches": 6, "optimizer__learning_rate": 1e-3}


@pytest.fixture(scope="module")
def uninterrupted(bert: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """Step -> loss of a run of one process that nobody interrupted."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    launch(1, [cell(bert, texts, folder / "out", schedule__max_steps=8, **MOVED)], folder)
    return losses(folder / "out")


@pytest.fixture(scope="module")
def begun(bert: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of four steps by each strategy."""
    folder = tmp_path_factory.mktemp("begun")
    for writer, world in WRITERS.items():
        one = cell(bert, texts, folder / writer, strategy__kind=writer, schedule__max_steps=4, **MOVED)
        launch(world, [one], folder)
    return folder


@pytest.mark.matrix
@pytest.mark.parametrize("reader", READERS)
def test_a_checkpoint_of_any_strategy_resumes_under_any_other_on_any_number_of_processes(
    reader: str, begun: Path, uninterrupted: dict[int, float], bert: Path, texts: Path, tmp_path: Path
) -> None:
    cells = []
    for writer in WRITERS:
        output = shutil.copytree(begun / writer, tmp_path / writer)
        one = cell(bert, texts, output, strategy__kind=reader, schedule__max_steps=8, **MOVED)
        cells.append(one | {"resume": True})
    launch(READERS[reader], cells, tmp_path)
    for writer in WRITERS:
        found = losses(tmp_path / writer)
        assert found.keys() == uninterrupted.keys()
        worst = max(abs(found[step] - uninterrupted[step]) for step in found)
        assert worst < 1e-5, f"{writer} on {WRITERS[writer]} to {reader} on {READERS[reader]}: {worst}"


@pytest.mark.matrix
@pytest.mark.parametrize("strategy", ["zero3", "fsdp"])
def test_a_language_model_that_is_mapped_and_cut_apart_trains_as_a_replica_does(
    strategy: str, texts: Path, tmp_path: Path
) -> None:
    """One model with tied weights and dropout, one without; stored in 16 bits."""
    tiny.tiny_llama(tmp_path / "llama")
    tiny.tiny_gpt2(tmp_path / "gpt2")
    options = {"task": "causal-lm", "schedule__max_steps": 8, "batch__micro_batches": 3}
    options |= {"data__evaluation_fraction": 0.1, "optimizer__max_grad_norm": 0}
    cells = []
    for name in ("llama", "gpt2"):
        model = tmp_path / name
        AutoModelForCausalLM.from_pretrained(model).bfloat16().save_pretrained(model)
        for kind in ("ddp", strategy):
            cells.append(cell(model, texts, tmp_path / f"{name} {kind}", strategy__kind=kind, **options))
    launch(2, cells, tmp_path)
    for name in ("llama", "gpt2"):
        wanted, found = (metrics(tmp_path / f"{name} {kind}") for kind in ("ddp", strategy))
        for key in ("loss", "eval_loss", "eval_token_accuracy"):
            assert [line[key] for line in found if key in line] == pytest.approx(
                [line[key] for line in wanted if key in line], abs=1e-5
            )
        final = tmp_path / f"{name} {strategy}" / "final"
        assert {tensor.dtype for tensor in tensors(final).values()} == {torch.float32}
        assert ("lm_head.weight" in tensors(final)) == (name == "llama"), "a tied weight is saved once"
        assert AutoModelForCausalLM.from_pretrained(final).dtype == torch.float32


@pytest.mark.matrix
def test_a_block_that_is_tied_to_the_output_layer_is_cut_with_the_model(
    bert: Path, few_texts: Path, tmp_path: Path
) -> None:
    """The embeddings of BERT are a block of their own, and tied."""
    options = {"task": "masked-lm", "schedule__max_steps": 3, "batch__micro_batches": 2}
    kinds = ("ddp", "zero3", "fsdp")
    launch(2, [cell(bert, few_texts, tmp_path / kind, strategy__kind=kind, **options) for kind in kinds], tmp_path)
    for kind in kinds:
        assert losses(tmp_path / kind) == pytest.approx(losses(tmp_path / "ddp"), abs=1e-5), kind


@pytest.mark.matrix
def test_an_adapter_goes_on_under_another_strategy(texts: Path, tmp_path: Path) -> None:
    model = tiny.tiny_llama(tmp_path / "llama")
    options = {"task": "causal-lm", "lora__rank": 4, "lora__dropout": 0.1, **MOVED}
    kinds = ("ddp", "zero1", "zero2", "zero3", "fsdp")
    begin = cell(model, texts, tmp_path / "begun", schedule__max_steps=4, **options)
    launch(1, [begin, cell(model, texts, tmp_path / "whole", schedule__max_steps=8, **options)], tmp_path)
    cells = []
    for kind in kinds:
        output = shutil.copytree(tmp_path / "begun", tmp_path / kind)
        one = cell(model, texts, output, strategy__kind=kind, schedule__max_steps=8, **options)
        cells.append(one | {"resume": True})
    launch(2, cells, tmp_path)
    for kind in kinds:
        assert losses(tmp_path / kind) == pytest.approx(losses(tmp_path / "whole"), abs=1e-5), kind


@pytest.mark.matrix
def test_gradients_that_are_not_finite_are_skipped_and_end_the_run_under_every_strategy(
    still: Path, texts: Path, tmp_path: Path
) -> None:
    weights = {name: tensor * math.inf for name, tensor in load_file(still / "model.safetensors").items()}
    broken = shutil.copytree(still, tmp_path / "broken")
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    cells = []
    for kind in STRATEGIES:
        one = cell(broken, texts, tmp_path / kind, strategy__kind=kind, optimizer__nonfinite_limit=2)
        cells.append(one | {"outcome": str(tmp_path / f"{kind}.json")})
    launch(2, cells, tmp_path)
    for kind in STRATEGIES:
        said = json.loads((tmp_path / f"{kind}.json").read_text())
        assert said and "the gradient was not finite in 3 steps in a row, up to step 3" in said, kind
        assert len([line for line in metrics(tmp_path / kind) if line.get("event") == "nonfinite"]) == 3
        assert not list((tmp_path / kind).glob("checkpoint-*"))
