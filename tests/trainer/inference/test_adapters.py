"""A trained adapter at work: merged into its base model, and evaluated."""

import json
import os
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

import tiny
from adapters import LORA, loaded, logits, settings_of
from distrain_k8s.cli import main
from distrain_trainer.errors import DataError, SettingsError
from distrain_trainer.inference.evaluate import evaluate_folder
from distrain_trainer.inference.merge import check_same, merge_folder
from distrain_trainer.inference.trained import load
from distrain_trainer.training.run import run


def test_evaluate_has_the_numbers_of_a_run_in_bf16(bert: Path, few_texts: Path, tmp_path: Path) -> None:
    run(settings_of(bert, few_texts, tmp_path, **LORA, precision="bf16", **{"schedule.max_steps": 3}), resume=False)
    final = json.loads((tmp_path / "training_info.json").read_text())["final"]
    found = evaluate_folder(str(tmp_path), None, {})
    assert {name: found[name] for name in final} == pytest.approx(final, abs=1e-6)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_merge_takes_a_classifier_with_the_new_head_it_was_trained_with(lora: Path, tmp_path: Path, dtype: str) -> None:
    report = merge_folder(str(lora), str(tmp_path / "merged"), dtype)
    assert report["quantization"] is None and report["merging"]["largest"] < (1e-4 if dtype == "fp32" else 0.1)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    trained = load(str(lora), {})
    assert plain.config.id2label == {0: "animals", 1: "films", 2: "numbers"}
    apart = (logits(plain, trained.tokenizer) - logits(trained.model, trained.tokenizer)).abs().max()
    assert float(apart) < (1e-4 if dtype == "fp32" else 0.1)


@pytest.mark.filterwarnings("ignore:Model with `tie_word_embeddings")
def test_a_layer_that_shares_its_weight_gets_no_adapter_and_merging_it_is_noticed(tmp_path: Path) -> None:
    model = tiny.decoder("tied llama", vocabulary=400)
    model.save_pretrained(tmp_path)
    tiny.byte_bpe("<s>", "</s>").save_pretrained(tmp_path)
    with pytest.raises(SettingsError, match="names lm_head, which shares its weight with another layer of"):
        loaded(tmp_path, task="causal-lm", **{"lora.target_modules": ["q_proj", "lm_head"]})
    assert loaded(tmp_path, task="causal-lm", **{"lora.target_modules": ["q_proj"]})

    config = LoraConfig(r=4, target_modules=["q_proj", "lm_head"], init_lora_weights=False, task_type="CAUSAL_LM")
    adapted = get_peft_model(model, config).eval()
    ids = torch.arange(5, 13).reshape(1, 8)
    with torch.no_grad():
        before = [adapted(ids).logits]
        after = [adapted.merge_and_unload()(ids).logits]
    check_same(before, [before[0] * (1 + 1e-6)])
    with pytest.raises(DataError, match="which is more than rounding, so nothing was written"):
        check_same(before, after)


def test_merge_writes_a_plain_model_and_says_how_far_it_is_from_the_adapter(
    qlora: Path, llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "merged"
    with pytest.raises(SystemExit) as left:
        main(["merge", str(qlora), "--output", str(output)])
    assert left.value.code == 0
    report = json.loads(capsys.readouterr().out)
    assert report["merging"]["mean"] <= report["merging"]["largest"] < 1e-4
    assert report["quantization"]["largest"] > report["merging"]["largest"]

    plain = AutoModelForCausalLM.from_pretrained(output)
    assert plain.config.use_cache is True
    tokenizer = AutoTokenizer.from_pretrained(output)
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama), qlora / "final")
    assert (logits(plain, tokenizer) - logits(adapted, tokenizer)).abs().max() < 1e-4
    assert torch.equal(logits(load(str(output), {}).model, tokenizer), logits(plain, tokenizer))
    assert "merged in fp32" in (output / "README.md").read_text()

    with pytest.raises(SettingsError, match="exists already"):
        merge_folder(str(qlora), str(output), "fp32")
    with pytest.raises(DataError, match="nothing to merge"):
        merge_folder(str(output), None, "fp32")


def test_evaluation_may_leave_the_quantization_behind(qlora: Path) -> None:
    trained = load(str(qlora), {"quantization.bits": "null"})
    assert type(trained.model.get_base_model().model.layers[0].mlp.up_proj.base_layer) is torch.nn.Linear


def test_a_merged_model_can_be_read_by_whom_the_umask_lets(lora: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        merge_folder(str(lora), str(tmp_path / "merged"), "bf16")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "merged").iterdir()} == {0o640}
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]
