"""Settings that contradict each other: conversations and pairs of answers."""

from distrain_trainer.settings.fields import Fields
from distrain_trainer.settings.sections import Preference


def chat_contradictions(s: Fields) -> list[tuple[bool, str]]:
    """Those of conversations."""
    data, batch = s.data, s.batch
    return [
        (
            s.task == "chat" and data.long_texts == "split",
            "data.long_texts=split would cut turns of a conversation in two; choose truncate, which keeps whole turns, "
            "or drop",
        ),
        (
            s.task == "chat" and data.stride > 0,
            "data.stride is for texts that are split, which conversations are not; remove it",
        ),
        (
            s.task == "chat" and data.text_column is not None,
            "data.text_column is not for chat; set chat.messages_column",
        ),
        (
            s.task == "chat" and data.clean,
            "data.clean folds white space, to which chat templates give a meaning; set it to false",
        ),
        (
            s.task != "chat"
            and (s.chat.messages_column, s.chat.tools_column, None if s.facts.compares else s.chat.template)
            != (None, None, None),
            f"the settings of section chat are for task chat but task is {s.task}; remove them or change task",
        ),
        (
            not s.facts.compares and s.preference != Preference(),
            f"the settings of section preference are for task preference but task is {s.task}; remove them or change "
            "task",
        ),
        (
            s.facts.compares and (data.text_column is not None or data.clean),
            "data.text_column and data.clean are not for task preference; set preference.prompt_column, chosen_column "
            "and rejected_column",
        ),
        *preference_contradictions(s.preference, s.evaluation.metric),
        (
            s.facts.compares and (data.long_texts == "split" or data.stride > 0),
            "data.long_texts=split and data.stride would part answers in task preference; choose truncate or drop, and "
            "no stride",
        ),
        (
            s.facts.compares and batch.packing,
            "batch.packing is for causal-lm and chat but task is preference, which compares two texts of a row; set "
            "batch.packing to false",
        ),
        (
            s.facts.compares and s.loss.label_smoothing > 0,
            "loss.label_smoothing is for classes and tokens but task preference compares texts; remove it",
        ),
    ]


def preference_contradictions(preference: Preference, metric: str | None) -> list[tuple[bool, str]]:
    """Those of pairs of answers, and of answers that were judged one by one. metric: `evaluation.metric`."""
    method, judges = preference.method, preference.judges
    judged = (preference.completion_column, preference.label_column)
    weights = (preference.desirable_weight, preference.undesirable_weight)
    return [
        (
            judges and (preference.chosen_column, preference.rejected_column) != (None, None),
            "preference.chosen_column and rejected_column name pairs of answers but preference.method is kto, whose "
            "rows have one; set completion_column and label_column, or choose another method",
        ),
        (
            not judges and judged != (None, None),
            "preference.completion_column and label_column name one answer of a row but preference.method is "
            f"{method}, which compares two; set chosen_column and rejected_column, or the method kto",
        ),
        (
            not judges and weights != (1.0, 1.0),
            "preference.desirable_weight and undesirable_weight are for kto but preference.method is "
            f"{method}; remove them or change the method",
        ),
        (
            judges and metric == "rewards/accuracies",
            "evaluation.metric is rewards/accuracies, which compares two answers, but preference.method is kto, whose "
            "rows have one; choose loss or rewards/margins",
        ),
        (
            not judges and metric == "kl",
            f"evaluation.metric is kl, which is measured by kto, but preference.method is {method}; choose loss or "
            "rewards/accuracies",
        ),
    ]
