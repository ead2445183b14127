"""All tasks, by their names in the settings."""

import difflib

from distrain_trainer.errors import SettingsError
from distrain_trainer.settings.tasks import Task as TaskName
from distrain_trainer.tasks.language import LANGUAGE
from distrain_trainer.tasks.sequence import SEQUENCE
from distrain_trainer.tasks.task import Names, Task

TASKS: dict[TaskName, Task] = {
    "sequence-classification": SEQUENCE,
    "causal-lm": LANGUAGE,
    "masked-lm": LANGUAGE,
    "chat": LANGUAGE,
}


def check_metric(metric: str, task: TaskName, names: Names) -> None:
    """Raises SettingsError where an evaluation of `task` does not give `metric`. names: of the labels."""
    known = TASKS[task].metrics(names)
    if metric not in known:
        nearest = difflib.get_close_matches(metric, known, n=1, cutoff=0)[0]
        raise SettingsError(
            f"evaluation.metric is '{metric}', which is not a metric of {task}; did you mean {nearest}? "
            f"There are {', '.join(known)}"
        )
