"""The settings of a run, the one source of truth: all of them, without contradictions, and by dotted names."""

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ValidationError, model_validator

from distrain_trainer.errors import SettingsError
from distrain_trainer.settings.contradictions.adapters import adapter_contradictions
from distrain_trainer.settings.contradictions.chat import chat_contradictions
from distrain_trainer.settings.contradictions.data import data_contradictions
from distrain_trainer.settings.contradictions.strategy import strategy_contradictions
from distrain_trainer.settings.contradictions.training import training_contradictions
from distrain_trainer.settings.fields import Fields
from distrain_trainer.settings.sections import Section


class Settings(Fields):
    """All settings of a run."""

    @model_validator(mode="after")
    def _no_contradictions(self) -> Self:
        for contradiction, sentence in contradictions(self):
            if contradiction:
                raise ValueError(sentence)
        return self


def contradictions(s: Fields) -> list[tuple[bool, str]]:
    """Combinations that cannot be meant, each with the sentence that says what to change."""
    return [
        *adapter_contradictions(s),
        *data_contradictions(s),
        *chat_contradictions(s),
        *training_contradictions(s),
        *strategy_contradictions(s),
    ]


MAY_CHANGE = frozenset(
    {
        "schedule.epochs",
        "schedule.max_steps",
        "model.attention",
        "model.chunked_loss",
        "model.gradient_checkpointing",
        "model.compile",
        "data.files",
        "data.evaluation_files",
        "data.cache",
        "data.workers",
        "strategy.kind",
        "strategy.offload_optimizer",
        "strategy.offload_parameters",
        "strategy.config",
        "chat.samples",
        "model.final_dtype",
        "evaluation.every_steps",
        "evaluation.at_start",
        "evaluation.metrics",
        "evaluation.patience",
        "checkpoint.every_steps",
        "checkpoint.every_minutes",
        "checkpoint.keep",
        "checkpoint.background",
        "checkpoint.max_restarts",
        "checkpoint.max_wait_hours",
        "checkpoint.spot_notices",
        "hub.repo",
        "hub.private",
        "hub.when",
        "hub.wait_minutes",
        "elastic.min_nodes",
        "elastic.wait_minutes",
        "tracking.trackers",
        "tracking.project",
        "tracking.name",
        "optimizer.nonfinite_limit",
        "deterministic",
        "max_hours",
        "log_level",
        "run_id",
        "output_dir",
    }
)
"""Settings that a resumed run may change; the rest define the data or the optimization. (Files may lie elsewhere: it
is their content that is compared.)"""


def flat(section: BaseModel, prefix: str = "") -> dict[str, object]:
    """Dotted name -> value of every setting, tuples as lists: `{"batch.tokens": 4096, ...}`."""
    values: dict[str, object] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        value = list(value) if isinstance(value, tuple) else value
        values |= flat(value, f"{prefix}{name}.") if isinstance(value, Section) else {prefix + name: value}
    return values


def explicit(section: BaseModel, prefix: str = "") -> set[str]:
    """Dotted names of the settings that somebody set, as opposed to defaults."""
    names: set[str] = set()
    for name in section.model_fields_set:
        value = getattr(section, name)
        names |= explicit(value, f"{prefix}{name}.") if isinstance(value, Section) else {prefix + name}
    return names


def nested(values: Mapping[str, object]) -> dict[str, Any]:
    """The inverse of `flat`: dotted names to nested dictionaries."""
    tree: dict[str, Any] = {}
    for name, value in values.items():
        *sections, last = name.split(".")
        node = tree
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = value
    return tree


def changed(settings: Settings, values: Mapping[str, object]) -> Settings:
    """The settings with others in their place. values: by dotted names. Raises SettingsError where they contradict each
    other."""
    try:
        return Settings.model_validate(nested(flat(settings) | dict(values)))
    except ValidationError as error:
        raise SettingsError(first_fault(error)) from None


def first_fault(error: ValidationError) -> str:
    """What is wrong first, in the words of pydantic or of a contradiction."""
    return error.errors()[0]["msg"].removeprefix("Value error, ")
