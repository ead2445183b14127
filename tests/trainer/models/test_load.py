"""The model: found, refused in one sentence, and made ready for its task."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from transformers import BertForMaskedLM, PreTrainedModel
from transformers.utils.import_utils import is_flash_attn_2_available

import tiny
from distrain_trainer.errors import DeviceLost, SettingsError
from distrain_trainer.models.load import (
    freeze,
    load_config,
    load_model,
    load_tokenizer,
    longest_row,
    resolve,
    widened_parts,
)
from distrain_trainer.models.loss import SummedLoss
from distrain_trainer.parallel.api import freeze_unreached, parallelize
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.sections import Model
from distrain_trainer.training.checks import check_device


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "a/b/c"])
def test_a_folder_that_is_not_there_is_never_looked_for_on_the_hub(name: str) -> None:
    with pytest.raises(SettingsError, match="is not a folder here; check the path"):
        resolve(Model(name=name))


def test_a_folder_without_a_model_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"without config\.json"):
        resolve(Model(name=str(tmp_path)))


def test_rows_are_as_long_as_model_and_micro_batch_allow(bert: Path) -> None:
    config, tokenizer = load_config(str(bert), None), load_tokenizer(str(bert), None)
    longest = tiny.POSITIONS
    assert longest_row(Settings(), config, tokenizer) == longest
    assert longest_row(Settings(batch={"tokens": 50}), config, tokenizer) == 50
    assert longest_row(Settings(data={"max_length": 20}), config, tokenizer) == 20
    with pytest.raises(SettingsError, match=f"accepts at most {longest} tokens"):
        longest_row(Settings(data={"max_length": longest + 1}), config, tokenizer)


def test_a_model_without_a_pad_token_gets_one_in_tokenizer_and_config(gpt2: Path) -> None:
    tokenizer = load_tokenizer(str(gpt2), None)
    assert tokenizer.pad_token == tokenizer.eos_token
    model = load_model(Settings(task="causal-lm"), str(gpt2), None, tokenizer, None)
    assert model.config.pad_token_id == tokenizer.pad_token_id


def test_the_end_of_a_text_is_learned_where_it_is_also_the_padding(tmp_path: Path) -> None:
    folder = tiny.tiny_llama(tmp_path / "first")
    tokenizer = load_tokenizer(str(folder), None)
    for again in (folder, tmp_path / "second"):  # also by whoever trains a trained model
        model = load_model(Settings(task="causal-lm"), str(again), None, tokenizer, None)
        ids = torch.tensor([[tokenizer.eos_token_id, 7, 8]])
        SummedLoss(model)(ids, ids)[0].backward()
        gradient = model.get_input_embeddings().weight.grad
        assert gradient[tokenizer.eos_token_id].abs().sum() > 0
        model.save_pretrained(tmp_path / "second")


def test_a_model_that_is_stored_quantized_is_refused(bert: Path, tmp_path: Path) -> None:
    shutil.copytree(bert, tmp_path, dirs_exist_ok=True)
    config = json.loads((bert / "config.json").read_text())
    quantized = {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}
    (tmp_path / "config.json").write_text(json.dumps(config | quantized))
    with pytest.raises(
        SettingsError, match="is stored quantized, which cannot be trained; name the model it was made from"
    ):
        load_config(str(tmp_path), None)


def test_new_layers_are_made_under_the_seed_and_named_after_the_data(bert: Path) -> None:
    tokenizer = load_tokenizer(str(bert), None)
    heads = []
    for seed in (1, 1, 2):
        torch.rand(seed)  # whatever was drawn before
        model = load_model(Settings(seed=seed), str(bert), None, tokenizer, ("no", "yes"))
        heads.append(model.classifier.weight)
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])
    assert model.config.id2label == {0: "no", 1: "yes"}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_weights_that_are_no_safetensors_are_refused(bert: Path, tmp_path: Path) -> None:
    for path in bert.iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(SettingsError, match="cannot be loaded"):
        load_model(Settings(), str(tmp_path), None, load_tokenizer(str(bert), None), ("no", "yes"))


def test_the_loss_is_a_sum_over_valid_targets_computed_by_hand() -> None:
    logits = torch.randn(2, 3, 5)
    model = torch.nn.Module()
    model.forward = lambda **_: SimpleNamespace(logits=logits)
    labels = torch.tensor([[1, -100, 4], [-100, -100, 0]])
    module = SummedLoss(model).eval()
    loss, predictions = module(torch.zeros(2, 3), labels, torch.ones(2, 3))
    chosen = [(0, 0, 1), (0, 2, 4), (1, 2, 0)]
    by_hand = sum(-logits[row, place].log_softmax(-1)[label] for row, place, label in chosen)
    assert loss == pytest.approx(float(by_hand), abs=1e-5)
    assert torch.equal(predictions, logits.argmax(-1))
    assert torch.equal(module(torch.zeros(2, 3), labels, with_logits=True)[1], logits[labels != -100])


def trained_names(model: PreTrainedModel) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_what_matches_a_pattern_is_frozen_and_stays_as_it_is(gpt2: Path) -> None:
    settings = Settings(task="causal-lm", model={"freeze": ["*.h.0.*", "*.wpe.*"]}, optimizer={"weight_decay": 0.5})
    model = load_model(settings, str(gpt2), None, load_tokenizer(str(gpt2), None), None)
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    empty = {"input_ids": torch.zeros(1, 1, dtype=torch.int64), "labels": torch.full((1, 1), -100)}
    module = SummedLoss(model)
    freeze_unreached(module, empty)
    parallel = parallelize(settings, Accelerator(cpu=True), module, world=1)
    ids = torch.arange(10)[None]
    loss, _ = parallel.forward({"input_ids": ids, "labels": ids})
    parallel.backward(loss)
    parallel.step(learning_rate=1e-2)
    changed = {name for name, tensor in model.named_parameters() if not torch.equal(tensor, before[name])}
    assert changed == trained_names(model)
    assert {name for name in before if ".h.0." in name or ".wpe." in name} == before.keys() - changed


def test_a_tied_weight_is_frozen_under_both_its_names() -> None:
    for pattern in ("lm_head.weight", "*.wte.*"):
        model = tiny.decoder("gpt2")
        everything = trained_names(model)
        freeze(model, [pattern], "the model")
        assert trained_names(model) == everything - {"transformer.wte.weight"}


def test_freezing_nothing_or_everything_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"'\*embedings\*', which matches no parameter of tiny; .*embed_tokens"):
        freeze(tiny.decoder("llama"), ["*layers.0*", "*embedings*"], "tiny")
    with pytest.raises(SettingsError, match="freezes all parameters of tiny"):
        freeze(tiny.decoder("llama"), ["model.*", "lm_head*"], "tiny")


def stored_in_bf16(model: PreTrainedModel, folder: Path) -> Path:
    """A model's folder with a tokenizer."""
    model.bfloat16().save_pretrained(folder)
    tiny.byte_bpe(None, "</s>").save_pretrained(folder)
    return folder


def loaded(folder: Path, **strategy: str) -> PreTrainedModel:
    settings = Settings(task="causal-lm", strategy=strategy)
    model: PreTrainedModel = load_model(settings, str(folder), None, load_tokenizer(str(folder), None), None)
    return model


@pytest.mark.parametrize("kind", ["gpt2", "llama", "tied llama", "gemma2", "granite", "bloom"])
def test_weights_that_stay_as_they_are_stored_become_what_fp32_would_have_been(kind: str, tmp_path: Path) -> None:
    folder = stored_in_bf16(tiny.decoder(kind), tmp_path)
    whole, mapped = loaded(folder), loaded(folder, kind="fsdp")
    assert (whole.dtype, mapped.dtype) == (torch.float32, torch.bfloat16)
    *blocks, everything = widened_parts(mapped)
    assert len(blocks) == 2 and everything is mapped
    for tensors in (torch.nn.Module.named_parameters, torch.nn.Module.named_buffers):
        wanted, found = dict(tensors(whole)), dict(tensors(mapped))
        assert wanted.keys() == found.keys()
        assert all(wanted[n].dtype == found[n].dtype and torch.equal(wanted[n], found[n]) for n in wanted)
    ids = torch.arange(10)[None]
    assert torch.equal(whole(ids).logits, mapped(ids).logits)
    assert whole.config.to_dict() == mapped.config.to_dict()


def test_a_model_that_lacks_its_head_is_made_in_fp32_under_every_strategy(bert: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(str(bert), None)
    BertForMaskedLM.from_pretrained(bert).bfloat16().save_pretrained(tmp_path)
    models = [
        load_model(Settings(strategy={"kind": kind}), str(tmp_path), None, tokenizer, ("no", "yes"))
        for kind in ("ddp", "zero3")
    ]
    first, other = (dict(model.named_parameters()) for model in models)
    assert all(torch.equal(first[name], other[name]) for name in first)


def test_a_model_that_will_be_cut_apart_is_mapped_from_its_file(tmp_path: Path) -> None:
    model = loaded(stored_in_bf16(tiny.decoder("llama"), tmp_path), kind="fsdp")
    mapped = mappings(tmp_path / "model.safetensors")
    assert all(any(tensor.data_ptr() in part for part in mapped) for tensor in model.parameters())
    list(widened_parts(model))
    assert not any(any(tensor.data_ptr() in part for part in mapped) for tensor in model.parameters())


def mappings(path: Path) -> list[range]:
    """The addresses of this process at which a file is mapped."""
    lines = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
    spans = [line[0].split("-") for line in lines if line[5:] == [str(path)]]
    return [range(int(start, 16), int(end, 16)) for start, end in spans]


def test_fewer_gpus_than_processes_are_refused_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(SettingsError, match=r"4 processes were started on this node but only 1 GPUs are visible"):
        check_device(Settings(), local_world=4)
    check_device(Settings(precision="fp32"), local_world=1)


def test_a_gpu_that_is_missing_where_the_run_was_training_restarts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(SettingsError, match="8 GPUs per node were promised but there is no CUDA device here"):
        check_device(Settings(), local_world=8, promised=8)
    with pytest.raises(DeviceLost, match=r"worker-3 has 0 GPUs where 8 were promised .* put worker-3 into avoidNodes"):
        check_device(Settings(), local_world=8, promised=8, begun=True, node="worker-3")
    assert DeviceLost.exit_code == 138


def test_flash_attention_that_is_not_here_is_refused() -> None:
    if is_flash_attn_2_available():
        pytest.skip("it is here")
    with pytest.raises(SettingsError, match="no GPU with the package flash-attn here; use sdpa"):
        check_device(Settings(model={"attention": "flash_attention_2"}, precision="bf16"))
