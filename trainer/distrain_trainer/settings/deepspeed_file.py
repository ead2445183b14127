"""What a user's own DeepSpeed or Accelerate file says about the settings.

The file (`strategy.config`) is DeepSpeed's JSON or what `accelerate config` wrote. What it says becomes
settings where distrain has one, is passed on where only DeepSpeed knows it, and is refused where it is unknown or
would break a promise; `deepspeed_keys` says which. Needs neither torch nor DeepSpeed.
"""

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from distrain_trainer.errors import SettingsError
from distrain_trainer.settings.deepspeed_batch import BatchKeys
from distrain_trainer.settings.deepspeed_keys import (
    ACCELERATE,
    ALIASES,
    DEEPSPEED,
    LAUNCHES,
    Counts,
    Ignored,
    Passes,
    Refused,
    Rule,
)
from distrain_trainer.settings.documents import load_yaml, yaml_fault
from distrain_trainer.settings.model import Settings, explicit, first_fault, flat, nested
from distrain_trainer.settings.sections import ZERO

IN_PLACE_OF = {"schedule.max_steps": "schedule.epochs", "schedule.warmup_steps": "schedule.warmup_fraction"}
"""A setting that a file may give, and the one that says the same in another way."""


@dataclass
class UserConfig:
    """What a user's file says. settings: dotted names to values. sources: their names -> the key and value that said
    so. passed: dotted keys to values that DeepSpeed is to get besides. notes: sentences on what has no effect here.
    batch: what it says of a step."""

    path: str
    settings: dict[str, object] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    passed: dict[str, object] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    is_deepspeed: bool = True
    batch: BatchKeys = field(init=False)

    def __post_init__(self) -> None:
        self.batch = BatchKeys(self.path)

    @property
    def extra(self) -> dict[str, Any]:
        """What DeepSpeed is to get besides, as its JSON has it."""
        return nested(self.passed)

    def sets(self, name: str, value: object, source: str) -> None:
        """Takes a setting; SettingsError where another key has said something else."""
        if name in self.settings and self.settings[name] != value:
            raise SettingsError(f"{self.path}: {self.sources[name]} and {source} contradict each other; keep one")
        self.settings[name], self.sources[name] = value, source


def apply(settings: Settings) -> tuple[Settings, dict[str, Any]]:
    """The settings with those of `strategy.config`, and what DeepSpeed is to get besides; as they are without a file.

    Applied again to its own result it changes nothing. Raises SettingsError where the file is refused, and where it
    says other than a setting that somebody has set.
    """
    path = settings.strategy.config
    if path is None:
        return settings, {}
    user = read_user_config(path)
    names, values = explicit(settings), flat(settings)
    values = {name: value for name, value in values.items() if name in names}
    for name, (number, source) in user.batch.settings(values).items():
        user.sets(name, number, source)
    for name, value in user.settings.items():
        other = IN_PLACE_OF.get(name, "")
        if values.get(name) is not None and values[name] != value:
            raise SettingsError(
                f"{name} is {values[name]!r} but {path} says {user.sources[name]}; change one of them, or write auto "
                "in the file"
            )
        if values.get(name) is None and values.get(other):
            raise SettingsError(
                f"{other} is {values[other]!r} but {path} says {user.sources[name]}, which replaces it; "
                "remove one of them, or write auto in the file"
            )
    try:
        resolved = Settings.model_validate(nested(values | user.settings))
    except ValidationError as error:
        raise SettingsError(_sentence(error, user)) from None
    kind = resolved.strategy.kind
    if kind is None:
        raise SettingsError(
            f"strategy.config {path} names no stage of ZeRO and no distributed_type; set strategy.kind, or remove it"
        )
    if user.is_deepspeed and kind not in ZERO:
        raise SettingsError(f"strategy.config {path} is for DeepSpeed but strategy.kind is {kind}; choose one of them")
    return resolved, user.extra


def read_user_config(path: str) -> UserConfig:
    """What a file says: DeepSpeed's JSON, or what `accelerate config` wrote, with the file that it names.

    Raises SettingsError (64), one sentence, for a key that is unknown or refused.
    """
    tree = _read(path)
    user = UserConfig(path)
    if not {"distributed_type", "compute_environment", "deepspeed_config", "fsdp_config"} & tree.keys():
        _take_deepspeed(user, path, tree)
        return user
    _take(user, path, tree, ACCELERATE)
    user.is_deepspeed = str(tree.get("distributed_type", "")).upper() == "DEEPSPEED"
    inner = user.passed.pop("deepspeed_config.deepspeed_config_file", "none")
    classes = user.passed.pop("deepspeed_config.deepspeed_moe_layer_cls_names", None)
    if inner != "none":
        beside = Path(path).parent / str(inner)
        inner = str(beside if beside.exists() and not Path(str(inner)).exists() else inner)
        _take_deepspeed(user, inner, _read(inner))
    if classes:
        user.passed["zero_optimization.leaf_module.classes"] = [name.strip() for name in str(classes).split(",")]
    return user


def processes_sentence(path: str | None, world: int) -> str | None:
    """Says that a run has another number of processes than its Accelerate file was made for; None where it has not."""
    meant = read_user_config(path).batch.values.get("processes", world) if path is not None else world
    if meant == world:
        return None
    return (
        f"{path} is for {meant} process{'es' * (meant > 1)} and this run has {world}; --processes says how many each "
        "node starts"
    )


def _take_deepspeed(user: UserConfig, path: str, tree: dict[str, Any]) -> None:
    """What a DeepSpeed configuration says, with what follows from several of its keys together."""
    if isinstance(tree.get("zero_optimization"), bool):
        raise SettingsError(f"zero_optimization in {path} is an old form; write zero_optimization: {{stage: 1}}")
    if _block(tree, "torch_autocast").get("enabled") is not True:
        tree = {name: value for name, value in tree.items() if name != "torch_autocast"}
    _take(user, path, tree, DEEPSPEED)

    if [_block(tree, name).get("enabled") for name in ("fp16", "bf16")] == [False, False]:
        user.sets("precision", "fp32", "fp16.enabled False and bf16.enabled False")
    schedule = _block(_block(tree, "scheduler"), "params")
    if user.settings.get("schedule.warmup_steps") not in (None, 0, 1) and "warmup_type" not in schedule:
        raise SettingsError(
            f"scheduler.params in {path} has no warmup_type, which is log to DeepSpeed, but the learning rate rises "
            "linearly here; write warmup_type linear, or auto for warmup_num_steps"
        )


def _take(user: UserConfig, path: str, tree: dict[str, Any], rules: dict[str, Rule]) -> None:
    """What each key of a file says."""
    for key, value in _leaves(tree, "", rules, path):
        rule, shown = rules[key], f"{key} in {path} is {value!r}"
        if isinstance(rule, Refused):
            if value not in rule.unless and not _is_off(value):
                raise SettingsError(f"{shown}, but {rule.why}")
        elif isinstance(rule, Ignored):
            user.notes.append(f"{key} {value!r} in {path} has no effect: {rule.why}")
        elif isinstance(rule, Counts):
            user.batch.take(rule.part, key, _number(value), path)
            if rule.part == "processes":
                user.notes.append(f"{key} {value!r} in {path} starts none: {LAUNCHES}")
        elif isinstance(rule, Passes):
            user.passed[key] = _checked(value, rule, shown)
        elif not rule.values:
            user.sets(rule.setting, _number(value), f"{key} {value!r}")
        else:
            spelled = value.lower() if isinstance(value, str) else value
            if not isinstance(spelled, str | int) or spelled not in rule.values:
                raise SettingsError(f"{shown}, but {rule.why}")
            if rule.values[spelled] is not None:
                user.sets(rule.setting, rule.values[spelled], f"{key} {value!r}")


def _leaves(tree: dict[str, Any], prefix: str, rules: dict[str, Rule], path: str) -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything in the file that has a rule and says something."""
    for name, value in tree.items():
        key = ALIASES.get(f"{prefix}{name}", f"{prefix}{name}")
        if key not in rules and not any(known.startswith(f"{key}.") for known in rules):
            raise SettingsError(_unknown(key, path, rules))
        if value is None or (isinstance(value, str) and value.lower() == "auto"):
            continue
        if key in rules:
            yield key, value
        elif isinstance(value, dict):
            yield from _leaves(value, f"{key}.", rules, path)
        elif value is not False:
            raise SettingsError(f"{key} in {path} is {value!r}, but it should be a block of keys")


def _unknown(key: str, path: str, rules: dict[str, Rule]) -> str:
    """The sentence about a key that is in no table, with the nearest one."""
    prefix, _, name = key.rpartition(".")
    start = f"{prefix}." if prefix else ""
    siblings = {known.removeprefix(start).partition(".")[0] for known in rules if known.startswith(start)}
    close = difflib.get_close_matches(name, sorted(siblings), n=1, cutoff=0.6)
    nearest = start + close[0] if close else ""
    if not close:
        elsewhere = [known for known in rules if known.rpartition(".")[2] == name]
        nearest = (elsewhere or difflib.get_close_matches(key, sorted(rules), n=1, cutoff=0))[0]
    library = "DeepSpeed" if rules is DEEPSPEED else "Accelerate"
    return f"{key} in {path} is not a key of {library}; did you mean {nearest}?"


def _read(path: str) -> dict[str, Any]:
    """The file's tree: JSON without repeated keys, or YAML."""
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise SettingsError(f"strategy.config {path} cannot be read: {reason}; check the path") from None

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        repeated = next((key for key in keys if keys.count(key) > 1), None)
        if repeated:
            raise SettingsError(f"{repeated} stands twice in {path}; keep one of them")
        return dict(pairs)

    try:
        tree = json.loads(text, object_pairs_hook=once)
    except ValueError:
        try:
            tree = load_yaml(text)
        except yaml.YAMLError as error:
            raise SettingsError(f"strategy.config {path} is neither JSON nor YAML{yaml_fault(error)}") from None
    if not isinstance(tree, dict) or not tree:
        raise SettingsError(f"strategy.config {path} holds no keys; give DeepSpeed's JSON or what accelerate wrote")
    return {ALIASES.get(str(key), str(key)): value for key, value in tree.items()}


def _block(tree: dict[str, Any], name: str) -> dict[str, Any]:
    value = tree.get(name)
    return value if isinstance(value, dict) else {}


def _is_off(value: Any) -> bool:
    """Whether a block says that its feature is off."""
    return isinstance(value, dict) and (not value or value.get("enabled") is False)


def _number(value: Any) -> Any:
    """Text that is a number, as YAML reads 5e8, becomes one; a whole float becomes an integer."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return value
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _checked(value: Any, rule: Passes, shown: str) -> Any:
    """A value that is passed on, which must be of its kind."""
    value = value if rule.kind == "text" else _number(value)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    whole = number and isinstance(value, int) and value >= 0
    fits = {
        "true or false": isinstance(value, bool),
        "a whole number": whole,
        "an even whole number": whole and value % 2 == 0,
        "a number": number,
        "text": isinstance(value, str),
        "a list": isinstance(value, list),
    }[rule.kind]
    if not fits or (rule.values and value not in rule.values):
        raise SettingsError(f"{shown}, but it should be {' or '.join(rule.values) or rule.kind}")
    return value


def _sentence(error: ValidationError, user: UserConfig) -> str:
    """The first thing that is wrong with what the file says, in one sentence."""
    name, message = ".".join(str(part) for part in error.errors()[0]["loc"]), first_fault(error)
    source = next((user.sources[known] for known in user.sources if name.startswith(known)), None)
    if not name or not source:
        return f"with strategy.config {user.path}: {message}"
    return f"{user.path} says {source}, but {message.replace('Input', 'it')}"
