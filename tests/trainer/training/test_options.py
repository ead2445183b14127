"""Options of a run: noise on embeddings, an average of the weights, an evaluation at the start, a model in bf16."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.integrations.neftune import activate_neftune

import tiny
from cells import STRATEGIES, cell, launch
from distrain_trainer.inference.evaluate import evaluate_folder
from distrain_trainer.models.load import load_model, load_tokenizer
from distrain_trainer.settings.model import Settings
from distrain_trainer.training.loop import seed_dropout
from distrain_trainer.training.run import run
from runs import digest, losses, metrics, tensors

OPTIONS: dict[str, Any] = {
    "model": {"embedding_noise": 5, "final_dtype": "bf16"},
    "ema": {"decay": 0.7},
    "evaluation": {"at_start": True},
}


def settings_of(name: Path, texts: Path, output: Path, **sections: dict[str, Any]) -> Settings:
    asked: dict[str, Any] = {
        "task": "causal-lm",
        "model": {"name": str(name)},
        "data": {"files": [str(texts)], "evaluation_fraction": 0.15},
        "batch": {"tokens": 256, "micro_batches": 2},
        "optimizer": {"learning_rate": 1e-3},
        "schedule": {"max_steps": 4},
        "output_dir": str(output),
    }
    for section, values in sections.items():
        asked[section] = asked.get(section, {}) | values
    return Settings.model_validate(asked)


@pytest.fixture(scope="module")
def optional(llama: Path, few_texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with all of them."""
    output = tmp_path_factory.mktemp("options") / "out"
    run(settings_of(llama, few_texts, output, **OPTIONS), resume=False)
    return output


def test_the_model_is_evaluated_before_the_first_step_and_that_is_no_best(optional: Path) -> None:
    first, *others = [line for line in metrics(optional) if "eval_loss" in line]
    assert first["step"] == 0 and [line["step"] for line in others] == [4]
    assert first["eval_loss"] > others[-1]["eval_loss"]
    assert not (optional / "checkpoint-0").exists()


def test_a_checkpoint_has_the_average_as_the_model_and_the_trained_weights_beside_it(optional: Path) -> None:
    saved = tensors(optional / "checkpoint-4")
    weights = {name: tensor for name, tensor in saved.items() if "/" not in name}
    trained = {name.removesuffix("/trained"): tensor for name, tensor in saved.items() if name.endswith("/trained")}
    assert trained.keys() == weights.keys()
    assert all(not torch.equal(weights[name], trained[name]) for name in weights if weights[name].ndim > 1)
    assert not any(name.endswith("/ema") for name in saved)


def test_the_final_model_is_the_average_in_bf16_and_an_evaluation_gives_its_loss(optional: Path) -> None:
    model, kept = AutoModelForCausalLM.from_pretrained(optional / "final"), tensors(optional / "checkpoint-4")
    assert model.dtype == torch.bfloat16
    for name, tensor in tensors(optional / "final").items():
        assert torch.equal(tensor, kept[name].bfloat16()), name
    assert AutoModelForCausalLM.from_pretrained(optional / "checkpoint-best").dtype == torch.float32
    assert evaluate_folder(str(optional), None, {}, "4")["loss"] == pytest.approx(last_loss(optional), rel=1e-5)


def last_loss(folder: Path) -> float:
    found: float = [line["eval_loss"] for line in metrics(folder) if "eval_loss" in line][-1]
    return found


def test_noise_is_that_of_transformers_in_training_alone(llama: Path, few_texts: Path, tmp_path: Path) -> None:
    settings = settings_of(llama, few_texts, tmp_path, model={"embedding_noise": 5})
    ours = load_model(settings, str(llama), None, load_tokenizer(str(llama), None), None)
    theirs = AutoModelForCausalLM.from_pretrained(llama)
    plain = AutoModelForCausalLM.from_pretrained(llama).eval()
    activate_neftune(theirs, 5)
    ids = torch.arange(40).view(2, 20)
    found = []
    for model in (ours.train(), theirs.train()):
        seed_dropout(1, 2, 3, 4)
        found.append(model(ids).logits)
    assert torch.equal(*found) and not torch.equal(found[0], plain(ids).logits)
    assert torch.equal(ours.eval()(ids).logits, plain(ids).logits)


WAYS: dict[str, dict[str, Any]] = {
    "average": {"ema__decay": 0.8},
    "noise": {"model__embedding_noise": 10},
    "layers": {"optimizer__layer_decay": 0.5},
    "muon": {"optimizer__name": "muon"},
    "adafactor": {"optimizer__name": "adafactor"},
}
WHOLE = ("muon", "adafactor")
"""Those that strategies which cut weights apart refuse."""


@pytest.mark.matrix
@pytest.mark.long
def test_options_train_and_resume_the_same_under_every_strategy(few_texts: Path, tmp_path: Path) -> None:
    """Each step's loss to 1e-5 of one process's, or 1e-3 with Muon, which orthogonalizes in bf16; bit-exact resumes."""
    llama = tiny.tiny_llama(tmp_path / "llama")
    for kind in ("single", *STRATEGIES):
        cells = []
        for way, more in WAYS.items():
            if way in WHOLE and kind not in ("single", "ddp"):
                continue
            options = {"task": "causal-lm", "strategy__kind": kind, "batch__micro_batches": 2} | more
            options |= {"optimizer__learning_rate": 1e-3, "data__evaluation_fraction": 0.15}
            for name, steps in (("halves", 3), ("halves", 6), ("whole", 6)):
                one = cell(llama, few_texts, tmp_path / kind / way / name, **options, schedule__max_steps=steps)
                cells.append(one | {"resume": True})
        launch(1 if kind == "single" else 2, cells, tmp_path, timeout=570)
    for kind in ("single", *STRATEGIES):
        for way in WAYS:
            folder = tmp_path / kind / way
            if not folder.exists():
                continue
            alone = tmp_path / "single" / way / "whole"
            found, wanted = losses(folder / "whole"), losses(alone)
            allowed = 1e-3 if way == "muon" else 1e-5
            assert found == pytest.approx(wanted, abs=allowed), (kind, way)
            assert last_loss(folder / "whole") == pytest.approx(last_loss(alone), abs=allowed), (kind, way)
            assert digest(folder / "halves" / "checkpoint-6") == digest(folder / "whole" / "checkpoint-6"), (kind, way)
