"""Every task is known everywhere, and its metrics by their names."""

from typing import get_args

import pytest
import transformers
from peft import TaskType
from transformers.pipelines import SUPPORTED_TASKS

from distrain_trainer.errors import SettingsError
from distrain_trainer.settings.tasks import FACTS, Task
from distrain_trainer.tasks.table import TASKS, check_metric

NAMES = ("a", "b")


def test_every_task_of_the_settings_is_in_both_tables() -> None:
    assert set(get_args(Task)) == FACTS.keys() == TASKS.keys()
    for task, facts in FACTS.items():
        assert facts.labelled == (TASKS[task].labelled is not None), task


@pytest.mark.parametrize("task", FACTS)
def test_what_others_call_a_task_exists_there(task: Task) -> None:
    facts = FACTS[task]
    assert hasattr(getattr(transformers, facts.model_class), "from_pretrained")
    assert facts.peft is None or facts.peft in TaskType.__members__
    assert facts.pipeline in SUPPORTED_TASKS


@pytest.mark.parametrize("task", FACTS)
def test_the_default_metric_and_the_headline_are_metrics_of_the_task(task: Task) -> None:
    for names in (NAMES, ("B-X", "O")):
        given = TASKS[task].metrics(names)
        check_metric(given.best, task, names)
        assert set(given.headline) <= set(given.names)


def test_an_unknown_metric_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(SettingsError, match=r"evaluation\.metric is 'f1_marco'.*did you mean f1_macro\?"):
        check_metric("f1_marco", "sequence-classification", NAMES)
    with pytest.raises(SettingsError, match=r"not a metric of causal-lm.*There are loss, perplexity"):
        check_metric("accuracy", "causal-lm", ())
