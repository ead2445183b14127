"""All tasks, by their names in the settings."""

import difflib

from distrain_trainer.errors import SettingsError
from distrain_trainer.settings.tasks import Task as TaskName
from distrain_trainer.tasks.language import LANGUAGE
from distrain_trainer.tasks.multi_label import MULTI_LABEL
from distrain_trainer.tasks.preference import PREFERENCE
from distrain_trainer.tasks.regression import ORDINAL, REGRESSION
from distrain_trainer.tasks.sequence import SEQUENCE
from distrain_trainer.tasks.tags import TAGS
from distrain_trainer.tasks.task import Names, Task
from distrain_trainer.tasks.writing import WRITING

TASKS: dict[TaskName, Task] = {
    "sequence-classification": SEQUENCE,
    "multi-label-classification": MULTI_LABEL,
    "regression": REGRESSION,
    "ordinal-regression": ORDINAL,
    "token-classification": TAGS,
    "causal-lm": LANGUAGE,
    "masked-lm": LANGUAGE,
    "sequence-to-sequence": WRITING,
    "chat": LANGUAGE,
    "preference": PREFERENCE,
}


def check_metric(metric: str, task: TaskName, names: Names, further: Names = ()) -> None:
    """Raises SettingsError where an evaluation of `task` does not give `metric`. names: of the labels. further: metrics
    beside the task's own."""
    known = (*TASKS[task].metrics(names).names, *further)
    if metric not in known:
        nearest = difflib.get_close_matches(metric, known, n=1, cutoff=0)[0]
        raise SettingsError(
            f"evaluation.metric is '{metric}', which is not a metric of {task}; did you mean {nearest}? "
            f"There are {', '.join(known)}"
        )
