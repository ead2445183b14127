"""Configurations of other trainers become settings that are valid; what has no setting is named."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as draw
from pydantic import ValidationError

from distrain_trainer.convert.axolotl_keys import AXOLOTL
from distrain_trainer.convert.convert import DIALECTS, convert
from distrain_trainer.convert.rules import Part
from distrain_trainer.convert.trainer_keys import LAUNCHER, TRAINER, TRL
from distrain_trainer.errors import SettingsError
from distrain_trainer.settings.deepspeed_keys import Sets
from distrain_trainer.settings.model import Settings, flat, nested
from distrain_trainer.settings.reader import read_settings

ROOT = Path(__file__).parents[3]

AXOLOTL_QLORA = """
base_model: NousResearch/Llama-3.2-1B
# hub_model_id: username/custom_model_name
load_in_8bit: false
load_in_4bit: true
chat_template: llama3
datasets:
  - path: reviews.jsonl
    ds_type: json
    type: chat_template
    field_messages: dialogue
dataset_prepared_path: last_run_prepared
val_set_size: 0.1
output_dir: ./outputs/qlora-out
adapter: qlora
lora_model_dir:
sequence_len: 4096
sample_packing: true
lora_r: 32
lora_alpha: 16
lora_dropout: 0.05
lora_target_linear: true
wandb_project: reviews
wandb_entity:
gradient_accumulation_steps: 4
micro_batch_size: 2
num_epochs: 4
optimizer: adamw_bnb_8bit
lr_scheduler: cosine
learning_rate: 0.0002
bf16: auto
tf32: false
gradient_checkpointing: true
gradient_checkpointing_kwargs: {use_reentrant: false}
attn_implementation: flash_attention_2
warmup_steps: 10
evals_per_epoch: 4
saves_per_epoch: 1
weight_decay: 0.0
special_tokens: {pad_token: <|end_of_text|>}
neftune_noise_alfa: 5
"""
GLUE = r"""#!/bin/bash
export TASK_NAME=mrpc
BS=8
# eight GPUs
CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6,7 torchrun --nproc_per_node 8 run_glue.py \
  --model_name_or_path google-bert/bert-base-cased \
  --task_name $TASK_NAME --do_train --do_eval \
  --per_device_train_batch_size ${BS} --gradient_accumulation_steps 4 \
  --learning_rate 2e-5 --warmup_ratio 0.1 --num_train_epochs 3 --fp16 \
  --hub_token hf_abcdefghijklmnopqrstuvwxyz \
  --report_to wandb tensorboard --output_dir out/$TASK_NAME
"""
SFT = """
model_name_or_path: Qwen/Qwen2.5-0.5B
dataset_name: trl-lib/Capybara
learning_rate: 2.0e-4
num_train_epochs: 1
packing: true
per_device_train_batch_size: 2
gradient_accumulation_steps: 8
eval_strategy: steps
eval_steps: 100
use_peft: true
lora_r: 32
lora_alpha: 16
output_dir: Qwen-SFT
"""
CASES: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "axolotl": (
        AXOLOTL_QLORA,
        {
            "task": "chat",
            "model.name": "NousResearch/Llama-3.2-1B",
            "model.attention": "flash_attention_2",
            "model.gradient_checkpointing": True,
            "data.files": ["reviews.jsonl"],
            "data.evaluation_fraction": 0.1,
            "data.max_length": 4096,
            "batch.tokens": 8192,
            "batch.samples": 2,
            "batch.micro_batches": 4,
            "batch.packing": True,
            "optimizer.name": "adamw_8bit",
            "optimizer.learning_rate": 2e-4,
            "optimizer.weight_decay": 0,
            "schedule.kind": "cosine",
            "schedule.warmup_steps": 10,
            "schedule.epochs": 4,
            "precision": "bf16",
            "lora.rank": 32,
            "lora.alpha": 16,
            "lora.dropout": 0.05,
            "lora.target_modules": ["all-linear"],
            "quantization.bits": 4,
            "chat.messages_column": "dialogue",
            "checkpoint.keep": 4,
            "tracking.trackers": ["wandb"],
            "tracking.project": "reviews",
            "output_dir": "./outputs/qlora-out",
        },
        ("special_tokens", "chat_template llama3", "evals_per_epoch 4", "did you mean neftune_noise_alpha?"),
    ),
    "a command": (
        GLUE,
        {
            "task": "sequence-classification",
            "model.name": "google-bert/bert-base-cased",
            "data.name": "nyu-mll/glue",
            "data.config": "mrpc",
            "data.text_column": "sentence1",
            "data.text_pair_column": "sentence2",
            "data.max_length": 128,
            "batch.samples": 8,
            "batch.micro_batches": 32,
            "optimizer.learning_rate": 2e-5,
            "optimizer.weight_decay": 0,
            "schedule.warmup_fraction": 0.1,
            "schedule.epochs": 3,
            "precision": "fp16",
            "tracking.trackers": ["wandb", "tensorboard"],
            "output_dir": "out/mrpc",
        },
        ("hub_token: ",),
    ),
    "trl": (
        SFT,
        {
            "task": "chat",
            "model.name": "Qwen/Qwen2.5-0.5B",
            "model.gradient_checkpointing": True,
            "data.name": "trl-lib/Capybara",
            "data.max_length": 1024,
            "batch.samples": 2,
            "batch.micro_batches": 8,
            "batch.packing": True,
            "optimizer.learning_rate": 2e-4,
            "optimizer.weight_decay": 0,
            "schedule.epochs": 1,
            "precision": "bf16",
            "lora.rank": 32,
            "lora.alpha": 16,
            "lora.dropout": 0.05,
            "evaluation.every_steps": 100,
            "output_dir": "Qwen-SFT",
        },
        (),
    ),
    "accelerate": (
        (ROOT / "examples" / "accelerate" / "zero2.yaml").read_text(),
        {
            "optimizer.max_grad_norm": 1,
            "precision": "bf16",
            "strategy.kind": "zero2",
            "strategy.offload_optimizer": False,
            "strategy.offload_parameters": False,
        },
        (),
    ),
    "a language model": (
        "python examples/pytorch/language-modeling/run_clm.py --model_name_or_path gpt2 --train_file train.txt "
        "--validation_file=valid.txt --block_size 1024 --per_device_train_batch_size 8 --max_steps 500 "
        "--no_dataloader_pin_memory --model_revision 607a30d783dfa663caf39e06633721c8d4cfcd7e",
        {
            "task": "causal-lm",
            "model.name": "gpt2",
            "model.revision": "607a30d783dfa663caf39e06633721c8d4cfcd7e",
            "data.files": ["train.txt"],
            "data.evaluation_files": ["valid.txt"],
            "data.max_length": 1024,
            "batch.tokens": 8192,
            "batch.samples": 8,
            "batch.packing": True,
            "optimizer.weight_decay": 0,
            "schedule.max_steps": 500,
        },
        (),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_configuration_becomes_these_settings(case: str) -> None:
    text, settings, left = CASES[case]
    result = convert(text, "run.yaml")
    assert result.refused is None and result.settings == settings
    assert len(result.left) >= len(left)
    assert all(any(words in sentence for sentence in result.left) for words in left), result.left
    assert left or result.left == ()


@pytest.mark.parametrize("case", CASES)
def test_the_document_is_read_as_a_settings_file(case: str, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(convert(CASES[case][0], "run.yaml").document())
    read = flat(read_settings(str(tmp_path / "run.yaml"), {}, {}))
    assert {name: value for name, value in CASES[case][1].items() if read[name] != value} == {}


def test_pairs_of_answers_are_taken() -> None:
    command = "trl dpo --model_name_or_path Qwen/Qwen2.5-0.5B --dataset_name trl-lib/ultrafeedback_binarized --beta 0.2"
    settings = convert(command, "run.sh").settings
    assert (settings["task"], settings["preference.beta"], settings["optimizer.learning_rate"]) == (
        "preference",
        0.2,
        1e-6,
    )
    settings = convert(
        f"{AXOLOTL_QLORA}rl: ipo\nrl_beta: 0.3\nsample_packing: false\n".replace("sample_packing: true\n", ""), "r"
    ).settings
    assert (settings["task"], settings["preference.method"], settings["preference.beta"]) == ("preference", "ipo", 0.3)


def test_judged_answers_are_taken() -> None:
    weights = "--desirable_weight 1.5 --undesirable_weight 0.5"
    command = f"trl kto --model_name_or_path Qwen/Qwen2.5-0.5B --dataset_name trl-lib/kto-mix-14k --beta 0.2 {weights}"
    taken = {
        "task": "preference",
        "preference.method": "kto",
        "preference.beta": 0.2,
        "preference.desirable_weight": 1.5,
        "preference.undesirable_weight": 0.5,
        "optimizer.learning_rate": 1e-6,
    }
    result = convert(command, "run.sh")
    assert result.refused is None and result.left == () and result.settings.items() >= taken.items()
    file = convert("model_name_or_path: gpt2\nbeta: 0.2\ndesirable_weight: 1.5\nundesirable_weight: 0.5\n", "kto.yaml")
    assert file.settings.items() >= {k: v for k, v in taken.items() if k != "optimizer.learning_rate"}.items()
    fields = "type: {field_prompt: question, field_completion: answer, field_label: good}"
    text = AXOLOTL_QLORA.replace("sample_packing: true\n", "").replace("type: chat_template", fields)
    settings = convert(
        f"{text}rl: kto\nrl_beta: 0.2\nkto_desirable_weight: 1.5\nkto_undesirable_weight: 0.5\n", "run.yaml"
    ).settings
    assert settings.items() >= {k: v for k, v in taken.items() if k != "optimizer.learning_rate"}.items()
    columns = {"prompt_column": "question", "completion_column": "answer", "label_column": "good"}
    assert {name: settings[f"preference.{name}"] for name in columns} == columns
    left = convert(f"{text.replace(fields, 'type: llama3.ultra')}rl: kto\n", "run.yaml").left
    assert any("llama3.ultra" in sentence and "prompt, completion and label" in sentence for sentence in left)


def test_the_loss_of_a_script_is_its_name() -> None:
    assert convert("trl orpo --model_name_or_path gpt2 --dataset_name a/b", "r").settings["preference.method"] == "orpo"


def test_several_data_sets_noise_and_a_least_rate_are_taken() -> None:
    text = AXOLOTL_QLORA.replace("neftune_noise_alfa", "neftune_noise_alpha").replace(
        "datasets:\n", "datasets:\n  - {path: tatsu-lab/alpaca, type: alpaca}\n"
    )
    settings = convert(text + "cosine_min_lr_ratio: 0.1\n", "run.yaml").settings
    assert settings["data.mix"] == ["tatsu-lab/alpaca=1", "reviews.jsonl=1"] and "data.files" not in settings
    assert settings["model.embedding_noise"] == 5
    assert settings["schedule.min_learning_rate"] == pytest.approx(2e-5)


@pytest.mark.parametrize(
    ("keys", "processes", "rows", "micro_batches", "said"),
    [
        ({"gradient_accumulation_steps": 4}, None, 8, 4, "8 rows x accumulation 4 x 1 process = 32 rows a step"),
        ({"gradient_accumulation_steps": 4}, 16, 8, 64, "8 rows x accumulation 4 x 16 processes = 512 rows a step"),
        ({"per_device_train_batch_size": 2}, 8, 2, 8, "2 rows x accumulation 1 x 8 processes = 16 rows a step"),
        ({"per_device_train_batch_size": 2}, None, 2, None, "as many micro-batches as processes"),
    ],
)
def test_the_rows_of_a_step_are_kept(
    keys: dict[str, int], processes: int | None, rows: int, micro_batches: int | None, said: str
) -> None:
    result = convert(json.dumps({"seed": 1, **keys}), "args.json", processes=processes)
    batch = {name: value for name, value in result.settings.items() if name.startswith("batch.")}
    expected: dict[str, object] = {"batch.samples": rows, "batch.micro_batches": micro_batches}
    assert batch == {name: value for name, value in expected.items() if value is not None}
    assert any(said in sentence for sentence in result.said)


def test_the_file_that_a_launcher_names_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "fsdp.yaml").write_text((ROOT / "examples" / "accelerate" / "zero3.yaml").read_text())
    command = "accelerate launch --config_file fsdp.yaml sft.py --gradient_accumulation_steps 3"
    result = convert(command, str(tmp_path / "run.sh"))
    processes = yaml.safe_load((tmp_path / "fsdp.yaml").read_text())["num_processes"]
    assert result.settings["strategy.kind"] == "zero3"
    assert result.settings["batch.micro_batches"] == 3 * processes


def test_every_argument_of_the_installed_trainer_is_known() -> None:
    from dataclasses import fields

    from transformers import TrainingArguments

    assert {field.name for field in fields(TrainingArguments)} - TRAINER.rules.keys() == {"fsdp_config"}  # a block


def test_defaults_that_a_trainer_has_dumped_are_not_complained_about(tmp_path: Path) -> None:
    from transformers import TrainingArguments

    dumped = json.dumps(TrainingArguments(output_dir=str(tmp_path), use_cpu=True).to_dict())
    result = convert(dumped, "args.json")
    assert [sentence for sentence in result.left if "hub_token" not in sentence] == []
    assert result.refused is None and result.settings["optimizer.learning_rate"] == 5e-5


def is_possible(setting: str, value: object) -> bool:
    """Whether a setting can have this value, together with whichever others."""
    try:
        Settings.model_validate(nested({setting: value}))
    except ValidationError as error:
        return all(fault["loc"] == () for fault in error.errors())
    return True


def test_every_setting_of_the_tables_is_one() -> None:
    names = flat(Settings())
    for rules in (TRAINER.rules, AXOLOTL.rules, LAUNCHER):
        for key, rule in rules.items():
            if isinstance(rule, Sets | Part):
                assert rule.setting in names, key
            if isinstance(rule, Sets):
                for value in [value for value in rule.values.values() if value is not None]:
                    assert is_possible(rule.setting, value), (key, value)
    assert all(name in names for dialect in DIALECTS.values() for name in dialect.defaults)


def test_settings_that_contradict_each_other_are_shown_and_refused() -> None:
    text = AXOLOTL_QLORA + "fsdp: [full_shard, auto_wrap]\n"
    result = convert(text, "run.yaml")
    assert result.refused and "quantization.bits conflicts with strategy.kind fsdp" in result.refused
    assert yaml.safe_load(result.document())["strategy"] == {"kind": "fsdp"}


def test_a_value_out_of_bounds_is_named_and_left_out() -> None:
    result = convert("learning_rate: 20\nseed: 7\n", "args.yaml")
    assert "optimizer.learning_rate" not in result.settings and result.settings["seed"] == 7
    assert any(sentence.startswith("learning_rate 20: as optimizer.learning_rate") for sentence in result.left)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no keys"),
        ("a: [", "is neither YAML, JSON nor a command at line"),
        ("colour: blue", "say which with --from"),
        ('{"zero_optimization": {"stage": 2}}', "it is DeepSpeed's"),
        ("axolotl train run.yml", "distrain convert run.yml"),
        ("python run_glue.py args.json", "distrain convert args.json"),
        ("torchrun --nproc_per_node 2", "starts no script"),
    ],
)
def test_what_is_no_configuration_is_refused_in_a_sentence(text: str, words: str) -> None:
    with pytest.raises(SettingsError, match=r"^run\.sh ") as refused:
        convert(text, "run.sh")
    assert words in str(refused.value)


VALUES = draw.recursive(
    draw.none() | draw.booleans() | draw.integers() | draw.floats() | draw.text(max_size=8) | draw.just("auto"),
    lambda inner: draw.lists(inner, max_size=3) | draw.dictionaries(draw.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
KEYS = draw.sampled_from(sorted({*TRL.rules, *AXOLOTL.rules, *DIALECTS["accelerate"].rules})) | draw.text(max_size=8)


@hypothesis.settings(max_examples=150, deadline=None)
@given(tree=draw.dictionaries(KEYS, VALUES, max_size=8), program=draw.sampled_from([None, *DIALECTS]))
def test_any_file_is_converted_or_refused_in_a_sentence(tree: dict[str, Any], program: Any) -> None:
    try:
        result = convert(yaml.safe_dump(tree), "run.yaml", program)
    except SettingsError as error:
        assert str(error).count("\n") == 0
    else:
        assert result.refused or Settings.model_validate(yaml.safe_load(result.document()) or {})


@hypothesis.settings(max_examples=100, deadline=None)
@given(words=draw.lists(KEYS.map("--{}".format) | draw.text(max_size=6) | draw.integers().map(str), max_size=10))
def test_any_command_is_converted_or_refused_in_a_sentence(words: list[str]) -> None:
    try:
        convert(f"python run_glue.py {' '.join(words)}", "run.sh")
    except SettingsError as error:
        assert str(error).count("\n") == 0


def test_the_command_prints_settings_on_stdout_and_the_rest_on_stderr() -> None:
    program = (
        "import sys\nfrom distrain_k8s.cli import main\n"
        "try: main(['convert', '-', '--processes', '2'])\n"
        "finally: assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=GLUE, capture_output=True, text=True, timeout=60, check=True
    )
    assert yaml.safe_load(done.stdout)["batch"] == {"samples": 8, "micro_batches": 8}
    assert "not taken: hub_token: " in done.stderr and "hf_abc" not in done.stderr
