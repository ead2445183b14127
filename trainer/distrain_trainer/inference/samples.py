"""Answers of a trained chat model to held-out prompts, for the report."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from distrain_trainer.bars import progress
from distrain_trainer.data.rows import Rows
from distrain_trainer.errors import first_line
from distrain_trainer.inference.generate import answer, decode
from distrain_trainer.inference.trained import load
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.sections import SHARDED
from distrain_trainer.tasks.labels import IGNORE_INDEX
from distrain_trainer.training.results import conclude
from distrain_trainer.training.session import TrainingSession

MAX_NEW_TOKENS = 128
"""Most tokens of an answer in the report."""


def add_answers(session: TrainingSession) -> None:
    """Adds sample answers to training_info.json and the report of a finished run, if it was a chat. On process 0."""
    resolved = session.resolved
    answers = answer_held_out(session.settings, resolved.folder / "final", resolved.data.evaluation, session.say)
    if answers:
        conclude(session, error=None, answers=answers)


def answer_held_out(
    settings: Settings, folder: Path, rows: Rows | None, tell: Callable[[str], None]
) -> list[dict[str, str]]:
    """{"prompt", "answer", "expected"} of `chat.samples` held-out rows, evenly spread: texts as the model sees them.

    folder: the trained model's. The prompt is everything before the first turn that is learned. The run is finished by
    then, and no error here changes that: it is reported through `tell`, and there are fewer answers.
    """
    if settings.facts.holds != "messages" or not settings.chat.samples or rows is None:
        return []
    if settings.strategy.kind in SHARDED:
        tell(f"no answers for the report: the whole model may not fit here; run distrain chat {folder} where it does")
        return []
    assert rows.labels is not None
    found = []
    try:
        trained = load(str(folder), {})
        numbers = np.unique(np.linspace(0, len(rows) - 1, settings.chat.samples).astype(int))
        with progress("answering for the report", len(numbers), "prompts") as advance:
            for number in numbers:
                span = slice(rows.offsets[number], rows.offsets[number + 1])
                ids, learned = rows.input_ids[span].tolist(), rows.labels[span] != IGNORE_INDEX
                first = int(learned.argmax())
                after = first + int(np.append(learned[first:], False).argmin())
                found.append(
                    {
                        "prompt": str(trained.tokenizer.decode(ids[:first])),
                        "answer": answer(trained, ids[:first], MAX_NEW_TOKENS, f"evaluation row {number + 1}"),
                        "expected": decode(trained, ids[first:after]),
                    }
                )
                advance(1)
    except Exception as error:  # mostly memory: the model is there twice
        tell(f"some answers for the report are missing ({first_line(error)}); run distrain chat {folder} instead")
    return found
