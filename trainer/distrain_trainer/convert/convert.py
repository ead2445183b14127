"""Turns another trainer's configuration into distrain's settings.

Each key is looked up in the table of its program (`trainer_keys`, `axolotl_keys`, and the table that reads a file of
`accelerate config`). What has no setting is named with what to do instead; nothing is passed over.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from distrain_trainer.convert import together
from distrain_trainer.convert.axolotl_keys import AXOLOTL
from distrain_trainer.convert.found import Found, shown, take
from distrain_trainer.convert.rules import Dialect
from distrain_trainer.convert.sources import Source, read_source
from distrain_trainer.convert.trainer_keys import LAUNCHER, METHODS, SCRIPT_DEFAULTS, SFT, TASKS, TRAINER, TRL
from distrain_trainer.errors import SettingsError
from distrain_trainer.settings.deepspeed_keys import ACCELERATE, DEEPSPEED, Ignored
from distrain_trainer.settings.model import Settings, first_fault, flat, nested

Program = Literal["axolotl", "trainer", "trl", "accelerate"]

ACCELERATED = Dialect("accelerate config", ACCELERATE)
DIALECTS: dict[Program, Dialect] = {"axolotl": AXOLOTL, "trainer": TRAINER, "trl": TRL, "accelerate": ACCELERATED}
FSDP = {name.removeprefix("fsdp_config.fsdp_"): rule for name, rule in ACCELERATE.items() if "fsdp_config." in name}
FSDP["limit_all_gathers"] = Ignored("fully_shard limits them by itself")
FSDP |= {f"fsdp_{name}": rule for name, rule in FSDP.items()}
FSDP |= {name: Ignored("that is for other devices") for name in ("xla", "xla_fsdp_v2", "xla_fsdp_grad_ckpt")}
"""Keys of a block `fsdp_config`, with and without their prefix."""
ONLY_AXOLOTL = ("base_model", "sequence_len", "micro_batch_size", "val_set_size")
ONLY_ACCELERATE = ("distributed_type", "compute_environment", "main_training_function", "downcast_bf16")
ONLY_TRL = frozenset(SFT) - {"load_in_4bit", "load_in_8bit"}
WEIGHTS = {"preference.desirable_weight", "preference.undesirable_weight"}
TRL_ADAPTER = {"lora.rank": 16, "lora.alpha": 32, "lora.dropout": 0.05}
"""What TRL's silence means of an adapter."""
NO_OTHER_TASK = (
    "distrain trains classifiers, taggers, language models, chat models and preferences; see task in "
    "`distrain train --help`"
)


@dataclass(frozen=True)
class Converted:
    """settings: dotted names to values, in the order of the reference. program: what wrote the source. left, said:
    sentences on what was not taken, and on what was decided. refused: what distrain says against the settings together;
    None where they are valid."""

    settings: dict[str, object]
    program: Program
    left: tuple[str, ...]
    said: tuple[str, ...]
    refused: str | None

    def document(self) -> str:
        """The settings as YAML."""
        return yaml.safe_dump(nested(self.settings), sort_keys=False, allow_unicode=True)


def convert(text: str, name: str, program: Program | None = None, processes: int | None = None) -> Converted:
    """The settings that a configuration or a command means. name: of its file. processes: that the run had. Raises
    SettingsError where it is none."""
    source = read_source(text, name)
    program = program or program_of(source)
    if program is None:
        raise SettingsError(
            f"{name} is not known as axolotl's, a trainer's or accelerate's; say which with --from"
            + (", or give strategy.config its name: it is DeepSpeed's" if "zero_optimization" in source.keys else "")
        )
    found, dialect = Found(), DIALECTS[program]
    take(found, _without_blocks(found, source.keys), dialect.rules)
    _take_launcher(found, source.launcher, name)
    _of_script(found, source, program)
    if program == "axolotl":
        together.axolotl_data(found)
    elif program != "accelerate":
        together.text_data(found)
    for step in together.ALL:
        step(found)
    together.hub(found, pushes=program == "axolotl")
    together.adapter(found, TRL_ADAPTER if program == "trl" else {}, nested=program == "axolotl")
    _take_defaults(found, dialect)
    together.batch(found, dialect, processes)
    together.tokens(found)
    settings, refused = checked(found)
    idle = [f"no effect here: {', '.join(dict.fromkeys(keys))}: {why}" for why, keys in found.idle.items()]
    return Converted(settings, program, tuple(dict.fromkeys(found.left)), (*found.said, *idle), refused)


def program_of(source: Source) -> Program | None:
    """The program whose keys these are; None where none of them is known."""
    names = {str(name).replace("-", "_") for name in source.keys}
    if source.script is not None:
        return "trl" if source.script.startswith(("sft", "dpo", *METHODS)) or ONLY_TRL & names else "trainer"
    if "base_model" in names or len(names & set(ONLY_AXOLOTL)) > 1:
        return "axolotl"
    if names & set(ONLY_ACCELERATE):
        return "accelerate"
    if ONLY_TRL & names:
        return "trl"
    return "trainer" if names & TRAINER.rules.keys() else None


def _without_blocks(found: Found, tree: Mapping[Any, Any]) -> dict[Any, Any]:
    """The keys of a file without the blocks that have tables of their own, which are taken."""
    rest = dict(tree)
    if isinstance(block := tree.get("fsdp_config"), dict) and not set(ONLY_ACCELERATE) & tree.keys():
        take(found, rest.pop("fsdp_config"), FSDP)
    elif "fsdp_config" in tree and not isinstance(block, dict):
        rest.pop("fsdp_config")
        if block:
            found.leaves("fsdp_config", block, "write what is in it as settings of the section strategy")
    if isinstance(tree.get("deepspeed"), dict):
        take(found, rest.pop("deepspeed"), DEEPSPEED)
    return rest


def _take_launcher(found: Found, options: Mapping[Any, Any], name: str) -> None:
    """Options of the launcher, and the file of `accelerate config` that they name, where it is here."""
    take(found, options, LAUNCHER)
    file = found.text("accelerate")
    if file is None:
        return
    beside = Path(name).parent / file
    try:
        tree = read_source((beside if beside.exists() else Path(file)).read_text(), file).keys
    except (OSError, UnicodeDecodeError):
        found.leaves("config_file", file, "it is not here; convert it too, and put the two together")
    else:
        take(found, tree, ACCELERATE)


def _of_script(found: Found, source: Source, program: Program) -> None:
    """The task, and what the script does unasked."""
    if source.script is None:
        if program == "trl":
            compares = any(setting.startswith("preference.") for setting in found.settings)
            found.settings["task"] = "preference" if compares else "chat"
            if WEIGHTS & found.settings.keys():
                found.sets("preference.method", "kto", "weights of desirable and undesirable answers")
        elif program == "trainer":
            found.said.append("task: a file of arguments does not say it; set it, or convert the command of the script")
        return
    task = next((task for start, task in TASKS if source.script.startswith(start)), None)
    if task is None and program == "trl" and source.script not in ("grpo", "rloo", "reward"):
        task = "chat"
    if task is None:
        found.leaves("the script", source.script, NO_OTHER_TASK)
        return
    found.settings["task"] = task
    for method in METHODS:
        if source.script.startswith(method):
            found.sets("preference.method", method, source.script)
    if source.script.startswith("run_clm"):
        found.sets("batch.packing", True, "run_clm")
        found.said.append("batch.packing true: run_clm fills its blocks too, but lets texts attend to each other")
    is_split = any(found.part(name) is not None for name in ("percentage", "validation_file"))
    for setting, value in SCRIPT_DEFAULTS.get(task, {}).items():
        if not (setting == "data.max_length" and found.part("length")) and not (
            setting == "data.evaluation_fraction" and is_split
        ):
            if setting in found.settings:
                continue
            found.sets(setting, value, source.script)
            found.said.append(f"as {source.script} does unasked: {setting} {value}")


def _take_defaults(found: Found, dialect: Dialect) -> None:
    """What the program's silence means, where distrain's means something else."""
    held_out = {"data.evaluation_split", "data.evaluation_files", "evaluation.samples"} & found.settings.keys()
    taken = []
    for setting, value in dialect.defaults.items():
        if setting in found.settings or (setting == "data.evaluation_fraction" and held_out):
            continue
        found.settings[setting], found.sources[setting] = value, f"the default of {dialect.title}"
        taken.append(f"{setting} {value}")
    warms = {"schedule.warmup_steps", "schedule.warmup_fraction"} & found.settings.keys()
    if dialect is AXOLOTL and not warms and found.part("warmup_ratio") is None and found.part("warmup_steps") is None:
        found.settings["schedule.warmup_fraction"] = 0.03
        taken.append("schedule.warmup_fraction 0.03 (at most 100 steps there)")
    if taken:
        found.said.append(f"as {dialect.title} does unasked: {', '.join(taken)}")


def checked(found: Found) -> tuple[dict[str, object], str | None]:
    """The settings that were found and are possible, and the sentence of the first contradiction between them.

    A value that is out of bounds is left out and named.
    """
    values = {name: found.settings[name] for name in flat(Settings()) if name in found.settings}
    while True:
        try:
            settings = Settings.model_validate(nested(values))
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            name = next((known for known in values if name == known or name.startswith(f"{known}.")), "")
            if not name:
                return _simple(values), first_fault(error)
            if first["type"] == "string_type" and isinstance(values[name], int | float | bool):
                values[name] = str(values[name])
                continue
            source = found.sources.get(name, shown(name, values[name]))
            found.left.append(f"{source}: as {name}, {first_fault(error).replace('Input', 'it')}")
            del values[name]
        else:
            resolved = flat(settings)
            return {name: _written(resolved[name]) for name in values}, None


def _simple(values: Mapping[str, object]) -> dict[str, object]:
    """Values as YAML can write them, of settings that contradict each other."""
    return {name: _written(value) for name, value in values.items()}


def _written(value: object) -> object:
    """Lists for tuples, and whole numbers without a fraction."""
    if isinstance(value, tuple | list):
        return [_written(part) for part in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
