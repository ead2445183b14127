"""The memory plan: what it reads from a model's files, that its parts add up, and how near it is to what is taken."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    MistralConfig,
    MistralForCausalLM,
    PegasusConfig,
    PegasusForConditionalGeneration,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

import tiny
from distrain_trainer.errors import SettingsError
from distrain_trainer.memory import activations, estimate
from distrain_trainer.memory.advice import GPUS, memory_of, read_model
from distrain_trainer.memory.estimate import KINDS, Bytes, auto_tokens, fits, most_tokens, plan
from distrain_trainer.memory.model_shapes import Weights, read_folder, read_header, weights_of
from distrain_trainer.models.load import load_model
from distrain_trainer.settings.deepspeed_buckets import BUCKET, bucket_elements
from distrain_trainer.settings.model import Settings, changed
from distrain_trainer.training.resolve import with_least_tokens
from hub import Repository, serve
from measured_cases import CHUNK_BYTES, measured_cases
from runs import finish, train

WITHIN = 0.15
ENCODER: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 256,
}
DECODER: dict[str, Any] = ENCODER | {"num_key_value_heads": 2, "intermediate_size": 160, "max_position_embeddings": 128}
FAMILIES: dict[str, tuple[type[PreTrainedModel], Any]] = {
    "bert": (BertForMaskedLM, lambda v: BertConfig(vocab_size=v, max_position_embeddings=128, **ENCODER)),
    "roberta": (RobertaForMaskedLM, lambda v: RobertaConfig(vocab_size=v, max_position_embeddings=130, **ENCODER)),
    "distilbert": (
        DistilBertForMaskedLM,
        lambda v: DistilBertConfig(
            vocab_size=v, max_position_embeddings=128, dim=64, n_layers=2, n_heads=4, hidden_dim=256
        ),
    ),
    "gpt2": (
        GPT2LMHeadModel,
        lambda v: GPT2Config(
            vocab_size=v, n_positions=128, n_embd=64, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0
        ),
    ),
    "llama": (LlamaForCausalLM, lambda v: LlamaConfig(vocab_size=v, **DECODER)),
    "llama-body": (LlamaModel, lambda v: LlamaConfig(vocab_size=v, **DECODER)),
    "mistral": (MistralForCausalLM, lambda v: MistralConfig(vocab_size=v, head_dim=16, **DECODER)),
    "qwen3": (Qwen3ForCausalLM, lambda v: Qwen3Config(vocab_size=v, head_dim=16, **DECODER)),
    "gemma3": (Gemma3ForCausalLM, lambda v: Gemma3TextConfig(vocab_size=v, head_dim=16, **DECODER)),
}
HALVES: dict[str, Any] = {
    "d_model": 64,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_ffn_dim": 256,
    "decoder_ffn_dim": 256,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "max_position_embeddings": 128,
    "attention_dropout": 0.0,
}
T5: dict[str, Any] = {
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 160,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
FLAN: dict[str, Any] = T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
WRITERS: dict[str, tuple[type[PreTrainedModel], Any]] = {
    "t5": (T5ForConditionalGeneration, lambda v: T5Config(vocab_size=v, **T5)),
    "flan-t5": (T5ForConditionalGeneration, lambda v: T5Config(vocab_size=v, **FLAN)),
    "bart": (BartForConditionalGeneration, lambda v: BartConfig(vocab_size=v, decoder_start_token_id=2, **HALVES)),
    "pegasus": (
        PegasusForConditionalGeneration,
        lambda v: PegasusConfig(vocab_size=v, decoder_start_token_id=0, **HALVES),
    ),
}
"""Models that read with an encoder and write with a decoder."""
MASKED = ("bert", "roberta", "distilbert")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each family: a small model with random weights, and a tokenizer."""
    folders = {}
    for name, (kind, config) in (FAMILIES | WRITERS).items():
        tokenizer = tiny.wordpiece() if name in MASKED else tiny.byte_bpe("<s>", "</s>")
        torch.manual_seed(0)
        folders[name] = tmp_path_factory.mktemp(name)
        kind(config(len(tokenizer))).save_pretrained(folders[name])
        tokenizer.save_pretrained(folders[name])
    return folders


def settings_of(model: Path | str, task: str, /, **sections: Any) -> Settings:
    return Settings.model_validate(
        {"task": task} | sections | {"model": {"name": str(model)} | sections.get("model", {})}
    )


# What the files say


@pytest.mark.parametrize("family", FAMILIES)
def test_headers_count_what_the_model_has(models: dict[str, Path], family: str) -> None:
    own = "masked-lm" if family in MASKED else "causal-lm"
    for task in (own, "sequence-classification"):
        settings = settings_of(models[family], task)
        tokenizer = AutoTokenizer.from_pretrained(models[family])
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        labels = ("yes", "no") if task == "sequence-classification" else None
        model = load_model(settings, str(models[family]), None, tokenizer, labels)
        weights = read_model(settings)
        assert weights.count == model.num_parameters(), task
        assert len(weights.blocks) == weights.layers
        assert weights.block * weights.layers + weights.root == weights.count


@pytest.mark.parametrize("family", WRITERS)
def test_headers_count_both_halves(models: dict[str, Path], family: str) -> None:
    settings = settings_of(models[family], "sequence-to-sequence")
    tokenizer = AutoTokenizer.from_pretrained(models[family])
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = load_model(settings, str(models[family]), None, tokenizer, None)
    weights = read_model(settings)
    assert weights.source is not None
    assert (weights.source.layers, weights.layers, weights.source.norms, weights.norms) == (3, 2, 2, 3)
    assert weights.count == model.num_parameters()
    read = sum(
        p.numel() for name, p in model.named_parameters() if "encoder.block." in name or "encoder.layers" in name
    )
    assert read == sum(
        math.prod(weights.parameters[n]) for n in weights.parameters if n.startswith(weights.source.blocks)
    )
    with pytest.raises(SettingsError, match="an encoder and a decoder cannot be planned for sequence-classification"):
        read_model(settings_of(models[family], "sequence-classification"))


def test_several_files_count_as_one(models: dict[str, Path], tmp_path: Path) -> None:
    LlamaForCausalLM.from_pretrained(models["llama"]).save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    assert read_folder(tmp_path)[1] == read_folder(models["llama"])[1]


def test_the_sample(tmp_path: Path) -> None:
    weights = read_model(settings_of("sample", "sequence-classification"))
    assert (weights.layers, weights.hidden, weights.heads, weights.vocabulary) == (6, 384, 12, 30522)
    assert weights.count == 22_713_216 + 2 * 385  # the encoder with its pooler, and a head of two classes


def test_masks_and_frequencies_are_no_parameters(tmp_path: Path) -> None:
    tensors = {
        "h.0.attn.bias": torch.ones(1, 1, 8, 8),
        "h.0.attn.masked_bias": torch.tensor(-1e4),
        "ids": torch.ones(2).long(),
    }
    save_file(tensors | {"h.0.weight": torch.ones(3, 4), "rotary.inv_freq": torch.ones(4)}, tmp_path / "a.safetensors")
    assert read_header(tmp_path / "a.safetensors") == {"h.0.weight": (3, 4)}


@pytest.mark.parametrize("content", [b"", b"not a header", (10**12).to_bytes(8, "little"), b"\x02" + bytes(7) + b"[]"])
def test_a_damaged_file_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(SettingsError, match="is not a safetensors file, or is damaged; fetch the model again"):
        read_folder(tmp_path)


def test_a_folder_without_safetensors_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SettingsError, match=r"has no model\.safetensors; name a model that is saved as safetensors"):
        read_folder(tmp_path)


def test_a_quantized_model_is_refused() -> None:
    with pytest.raises(SettingsError, match="quantized already"):
        weights_of({"quantization_config": {}}, {}, "causal-lm")


def config_of(folder: Path, **changes: Any) -> Weights:
    """What the files of a model say with other entries in its config.json."""
    config, shapes = read_folder(folder)
    return weights_of(config | changes, shapes, "causal-lm")


def test_sizes_by_layer_count_as_the_largest(models: dict[str, Path]) -> None:
    """As in Gemma 3n and OpenELM, whose layers are not all alike."""
    by_layer = {
        "intermediate_size": [160, 320, 160],
        "num_attention_heads": [2, 4, None],
        "num_key_value_heads": [1, 2],
    }
    weights = config_of(models["llama"], **by_layer, quantization_config=None)
    assert (weights.intermediate, weights.heads, weights.key_value_heads) == (320, 4, 2)


@pytest.mark.parametrize(
    "wrong",
    [{"num_attention_heads": 0}, {"num_attention_heads": []}, {"hidden_size": "wide"}, {"attention_dropout": ["a"]}],
)
def test_sizes_that_are_none_are_one_sentence(models: dict[str, Path], wrong: dict[str, Any]) -> None:
    (name, value), sentence = (
        *wrong.items(),
        "in config.json, not a number of . or more; the memory of this model cannot",
    )
    with pytest.raises(SettingsError, match=rf"{name} is {re.escape(repr(value))} {sentence}"):
        config_of(models["llama"], **wrong)


# The formula


@st.composite
def cases(draw: st.DrawFn) -> tuple[dict[str, Any], bool, str]:
    """Settings of every sort that the plan looks at."""
    return (
        {
            "precision": draw(st.sampled_from(["fp32", "bf16"])),
            "optimizer": {"name": draw(st.sampled_from(["adamw", "adamw_8bit", "sgd"]))},
            "lora": {"rank": draw(st.sampled_from([None, 4]))},
        },
        draw(st.booleans()),
        draw(st.sampled_from(["eager", "sdpa"])),
    )


@given(cases(), st.sampled_from(KINDS), st.integers(1, 64), st.integers(8, 5000), st.sampled_from(["llama", "gpt2"]))
def test_parts_add_up_and_more_costs_more(
    models: dict[str, Path], case: tuple[dict[str, Any], bool, str], kind: str, world: int, tokens: int, family: str
) -> None:
    sections, checkpointing, attention = case
    model = {"name": str(models[family]), "gradient_checkpointing": checkpointing, "attention": attention}
    settings = Settings.model_validate({"task": "causal-lm", "model": model} | sections)
    weights = read_model(settings)

    def planned(world: int, tokens: int) -> Bytes:
        return plan(weights, settings, kind, world, tokens)

    now = planned(world, tokens)
    parts = (now.parameters, now.gradients, now.optimizer, now.buckets, now.activations, now.working)
    assert sum(parts) == now.total and min(parts) >= 0
    assert planned(world, tokens + 8).total >= now.total, "more tokens took less"
    assert planned(2 * world, tokens).total <= now.total, "more processes took more"
    if kind not in ("single", "ddp"):
        assert planned(2 * world, tokens).optimizer < now.optimizer or not now.optimizer


@given(st.integers(1, 10**12), st.integers(1, 10**9))
def test_buckets_hold_the_largest_parameter(parameters: int, largest: int) -> None:
    bucket = bucket_elements(max(parameters, largest), largest)
    assert bucket % 2 == 0 and largest <= bucket <= max(largest, BUCKET, 1) + 1


@given(st.integers(0, 100_000), st.integers(8, 4096))
def test_auto_takes_the_most_that_fits(room: int, least: int) -> None:
    tokens = most_tokens(lambda tokens: tokens <= room, least)
    assert tokens >= least and (tokens <= estimate.MOST_TOKENS or tokens == least)
    if tokens > least:
        assert tokens % estimate.ROUND == 0 and tokens <= room
        assert tokens == estimate.MOST_TOKENS or tokens + estimate.ROUND > room


def test_a_quantized_base_and_its_adapter(models: dict[str, Path]) -> None:
    """4 bits and a scale for each 64 weights of the blocks; 16 bits for the rest; fp32 for what is trained."""
    settings = settings_of(
        models["llama"],
        "causal-lm",
        precision="bf16",
        lora={"rank": 4},
        quantization={"bits": 4, "double_quantization": False},
    )
    weights = read_model(settings)
    held = estimate.held(weights, settings)
    inner = 3 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 160)
    assert held.frozen == weights.count
    assert held.frozen_bytes == 2 * (weights.count - inner) + inner // 2 + inner // 64 * 4
    assert held.trained == 3 * 4 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 160))


TRAINED: dict[str, dict[str, Any]] = {
    "all": {},
    "adapter": {"lora": {"rank": 4}},
    "dora": {"lora": {"rank": 4, "dora": True, "target_modules": ["q_proj", "down_proj"]}},
    "frozen": {"model": {"freeze": ["*embed_tokens*", "*layers.0.*"]}},
}


@pytest.mark.parametrize("how", TRAINED)
def test_headers_count_what_is_trained(models: dict[str, Path], how: str) -> None:
    """The two numbers that DeepSpeed's buckets follow from, in the run and in `distrain validate`."""
    settings = settings_of(models["llama"], "causal-lm", **TRAINED[how])
    tokenizer = AutoTokenizer.from_pretrained(models["llama"])
    model = load_model(settings, str(models["llama"]), None, tokenizer, None)
    sizes = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
    held = estimate.held(read_model(settings), settings)
    assert (held.trained, held.largest) == (sum(sizes), max(sizes))


def test_the_bucket_is_the_one_that_the_users_file_names(models: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "ds.json"
    file.write_text(json.dumps({"zero_optimization": {"stage": 2, "reduce_bucket_size": 5e8}}))
    own = settings_of(models["llama"], "causal-lm", strategy={"kind": "zero2"})
    weights = read_model(own)
    users = changed(own, {"strategy.config": str(file)})
    assert (
        estimate.bucket_bytes(estimate.held(weights, users), users)
        == 4 * 500_000_000
        > estimate.bucket_bytes(estimate.held(weights, own), own)
    )
    assert plan(weights, users, "zero2", 2, 512).buckets == 2_000_000_000


def test_what_lies_below_all_that_is_trained_keeps_nothing(models: dict[str, Path]) -> None:
    def kept(*patterns: str) -> int:
        settings = settings_of(models["llama"], "causal-lm", model={"freeze": list(patterns)})
        return plan(read_model(settings), settings, "single", 1, 512).activations

    whole, lower = kept(), kept("*embed_tokens*", "*layers.0.*", "*layers.1.*")
    assert lower < whole / 2
    assert kept("*layers.0.*", "*layers.1.*") == kept("*layers.1.*", "*embed_tokens*") == whole


# What is taken

LONG = [pytest.mark.matrix, pytest.mark.long]


@pytest.mark.parametrize(
    ("kind", "most"),
    [
        ("ddp", 2),  # of its cases
        *(pytest.param(kind, None, marks=LONG) for kind in KINDS),
    ],
)
def test_the_plan_is_near_what_is_taken(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, most: int | None
) -> None:
    """Three figures of each case: what lives between backward pass and update, what autograd keeps, and the highest
    mark of a step. -s prints the table of docs/memory.md."""
    monkeypatch.setattr(activations, "CHUNK_BYTES", CHUNK_BYTES)
    wanted = measured_cases(models, kind)[:most]
    files = tmp_path / "cases.json", tmp_path / "found.json"
    files[0].write_text(json.dumps(wanted))
    command = [sys.executable, str(Path(__file__).parents[1] / "support" / "measured.py"), *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=570, check=False)
    assert done.returncode == 0, done.stderr
    far = []
    for case, measured in zip(wanted, json.loads(files[1].read_text()), strict=True):
        settings = Settings.model_validate(case["settings"])
        weights = read_model(settings)
        planned = plan(weights, settings, kind, case["world"], settings.batch.limit, device="cpu")
        lasting = estimate.bucket_bytes(estimate.held(weights, settings), settings) if kind == "zero3" else 0
        state = planned.parameters + planned.gradients + planned.optimizer + lasting
        state, kept, peak = (
            bytes_planned / measured[figure] - 1
            for figure, bytes_planned in (
                ("state", state),
                ("activations", planned.activations),
                ("peak", planned.total),
            )
        )
        processes = ", 2 processes" * (case["world"] > 1)
        line = (
            f"| {kind}{processes} | {case['what']} | {state:+.1%} | {kept:+.1%} | {measured['peak']:,} | {peak:+.1%} |"
        )
        print(line)
        far += [line] * (max(abs(state), abs(kept), abs(peak)) > WITHIN)
    assert not far


# The command


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "numpy", "transformers", "huggingface_hub", "accelerate", "datasets"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
"""


def test_settings_and_memory_need_pydantic_and_yaml_only() -> None:
    """All that the client takes of the trainer: every module of these rooms, imported where nothing else is loaded."""
    code = """
import sys
from importlib import import_module
from pkgutil import iter_modules

for room in ("settings", "memory"):
    for module in iter_modules(import_module(f"distrain_trainer.{room}").__path__):
        import_module(f"distrain_trainer.{room}.{module.name}")
import distrain_trainer.errors
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    foreign = set(done.stdout.split()) - set(sys.stdlib_module_names)
    own = ("_", "pydantic", "annotated", "typing", "yaml", "cython_runtime", "distrain")
    assert {name for name in foreign if not name.startswith(own)} <= {"sitecustomize", "usercustomize"}


def plan_command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """`distrain plan` where nothing of the trainer is installed."""
    code = BLOCKED + f"from distrain_k8s.cli import main; main({['plan', *map(str, arguments)]!r})"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)


def test_the_command_without_torch(models: dict[str, Path]) -> None:
    done = plan_command("--model.name", models["llama"], "--task", "causal-lm", "--gpus", 8, "--gpu-memory", "h100")
    assert done.returncode == 0, done.stderr
    assert (
        "take strategy.kind=ddp: 4,096 tokens per micro-batch x 8 = 32,768 tokens per step, rows up to 128"
        in done.stdout
    )
    for kind in ("ddp", "zero1", "zero2", "zero3", "fsdp"):
        assert f"\n{kind} " in done.stdout


def test_the_document_says_which_and_why(models: dict[str, Path]) -> None:
    command = ("--model.name", models["llama"], "--task", "causal-lm", "--gpus", 4, "-o", "json")
    about = json.loads(plan_command(*command, "--gpu-memory", "80GB").stdout)
    ddp = about["strategies"][0]
    assert (about["take"], ddp["kind"], ddp["fits"]) == ("ddp", "ddp", True)
    assert sum(ddp["bytes"].values()) == ddp["total"] + ddp["bytes"]["host"]
    assert ddp["headroom"] == int(0.9 * 80e9) - ddp["total"]
    totals = {line["kind"]: line["total"] for line in about["strategies"]}
    small = f"{(totals['ddp'] + totals['zero3']) / 2 / 0.9 / 1e9:.6f}GB"
    about = json.loads(plan_command(*command, "--gpu-memory", small).stdout)
    assert about["take"] in ("zero1", "zero2", "zero3")
    nothing = json.loads(plan_command(*command, "--gpu-memory", "0.012GB").stdout)
    assert nothing["take"] is None and nothing["suggestions"]
    assert all(suggestion.startswith("--") for suggestion in nothing["suggestions"])


def test_sizes_and_names_of_gpus() -> None:
    assert memory_of("80GB") == 80 * 10**9 and memory_of("16 GiB") == 16 * 2**30 and memory_of("24") == 24 * 10**9
    assert all(memory_of(name.upper()) > 10**10 for name in GPUS)
    with pytest.raises(SettingsError, match="--gpu-memory lots is neither a size such as 80GB nor one of t4, "):
        memory_of("lots")


def test_a_model_on_the_hub_is_planned_from_its_first_bytes(models: dict[str, Path], tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in models["llama"].iterdir()}
    with serve({"models/some/llama": Repository(files), "models/some/gated": Repository(files, gated=True)}) as hub:
        for name, code in (("some/llama", 0), ("some/gated", 64)):
            command = [
                sys.executable,
                "-m",
                "distrain_k8s.cli",
                "plan",
                "--model.name",
                name,
                "--task",
                "causal-lm",
            ]
            done = subprocess.run(
                command, env=hub.environment(tmp_path), capture_output=True, text=True, timeout=300, check=False
            )
            assert done.returncode == code, done.stderr
            assert ("take strategy.kind=single" in done.stdout) if code == 0 else ("is gated" in done.stderr)


# batch.tokens: auto


def test_auto_is_what_the_plan_has_room_for(models: dict[str, Path]) -> None:
    settings = settings_of(models["llama"], "causal-lm", batch={"tokens": "auto"}, data={"max_length": 100})
    weights = read_model(settings)
    room = 2 * plan(weights, settings, "single", 1, 1024).total
    tokens = auto_tokens(weights, settings, "single", 1, room, "cpu")
    assert tokens % 256 == 0 and tokens > 1024
    assert fits(plan(weights, settings, "single", 1, tokens, "cpu"), room)
    assert not fits(plan(weights, settings, "single", 1, tokens + 256, "cpu"), room)
    assert auto_tokens(weights, settings, "single", 1, 1000, "cpu") == 100, "never less than a row"


def test_a_run_writes_down_what_auto_became(bert: Path, texts: Path, tmp_path: Path) -> None:
    more = ("--batch.tokens", "auto", "--schedule.max_steps", "2", "--data.max_length", "64")
    done = finish(train(bert, texts, tmp_path / "run", 2, *more))
    tokens = json.loads((tmp_path / "run" / "settings.json").read_text())["settings"]["batch"]["tokens"]
    assert f"batch.tokens is auto: {tokens:,} padded tokens per micro-batch, the memory plan of ddp for " in done.stderr
    assert 64 <= tokens <= estimate.MOST_TOKENS


def test_all_processes_take_what_the_least_has_room_for() -> None:
    settings = Settings.model_validate({"batch": {"tokens": 2048}, "data": {"max_length": 512}})
    assert with_least_tokens(settings, [2048, 1024, 4096]).batch.tokens == 1024
    with pytest.raises(SettingsError, match=r"set data\.max_length to at most 256"):
        with_least_tokens(settings, [2048, 256])
