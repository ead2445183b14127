"""What the settings, the memory plan and transformers must know of each task. All else is in its file in `tasks/`."""

from dataclasses import dataclass
from typing import Literal

Task = Literal[
    "sequence-classification",
    "multi-label-classification",
    "regression",
    "ordinal-regression",
    "token-classification",
    "causal-lm",
    "masked-lm",
    "sequence-to-sequence",
    "chat",
    "preference",
]


@dataclass(frozen=True)
class TaskFacts:
    """What is known of a task before anything is read.

    holds: what a row of the data is. target: what is predicted: something of the row or of each word, the next token,
    masked tokens, another text, which of two answers is better.
    model_class, peft, pipeline: what transformers, peft (which has no name for some) and the Hub call it.
    long_texts, evaluation_fraction: defaults of `data`. text_columns, target_columns, label_columns: where they are
    looked for.
    numbers: labels are numbers, not classes.
    """

    holds: Literal["text", "words", "messages", "preferences"]
    target: Literal["row", "word", "next-token", "masked-token", "text", "preference"]
    model_class: str
    peft: str | None
    pipeline: str
    long_texts: Literal["truncate", "split"]
    evaluation_fraction: float = 0.1
    text_columns: tuple[str, ...] = ("text", "sentence", "content")
    target_columns: tuple[str, ...] = ()
    label_columns: tuple[str, ...] = ()
    numbers: bool = False

    @property
    def labelled(self) -> bool:
        """Whether labels come from a column of the data, and the model gets a new head for them."""
        return bool(self.label_columns)

    @property
    def classes(self) -> bool:
        """Whether labels are classes."""
        return self.labelled and not self.numbers

    @property
    def causal(self) -> bool:
        """Whether the model predicts each token from those before it."""
        return self.target in ("next-token", "preference")

    @property
    def compares(self) -> bool:
        """Whether a row is a prompt with two answers, of which one is better, or one is to another prompt."""
        return self.target == "preference"

    @property
    def writes(self) -> bool:
        """Whether the model writes another text: an encoder reads the one, a decoder writes the other."""
        return self.target == "text"


NUMBERS = TaskFacts(
    holds="text",
    target="row",
    model_class="AutoModelForSequenceClassification",
    peft="SEQ_CLS",
    pipeline="text-classification",
    long_texts="truncate",
    label_columns=("label", "labels", "score"),
    numbers=True,
)
FACTS: dict[Task, TaskFacts] = {
    "sequence-classification": TaskFacts(
        holds="text",
        target="row",
        model_class="AutoModelForSequenceClassification",
        peft="SEQ_CLS",
        pipeline="text-classification",
        long_texts="truncate",
        label_columns=("label", "labels"),
    ),
    "multi-label-classification": TaskFacts(
        holds="text",
        target="row",
        model_class="AutoModelForSequenceClassification",
        peft="SEQ_CLS",
        pipeline="text-classification",
        long_texts="truncate",
        label_columns=("labels", "label"),
    ),
    "regression": NUMBERS,
    "ordinal-regression": NUMBERS,
    "token-classification": TaskFacts(
        holds="words",
        target="word",
        model_class="AutoModelForTokenClassification",
        peft="TOKEN_CLS",
        pipeline="token-classification",
        long_texts="split",
        text_columns=("tokens", "words"),
        label_columns=("ner_tags", "tags", "labels"),
    ),
    "causal-lm": TaskFacts(
        holds="text",
        target="next-token",
        model_class="AutoModelForCausalLM",
        peft="CAUSAL_LM",
        pipeline="text-generation",
        long_texts="split",
    ),
    "masked-lm": TaskFacts(
        holds="text",
        target="masked-token",
        model_class="AutoModelForMaskedLM",
        peft=None,
        pipeline="fill-mask",
        long_texts="split",
    ),
    "sequence-to-sequence": TaskFacts(
        holds="text",
        target="text",
        model_class="AutoModelForSeq2SeqLM",
        peft="SEQ_2_SEQ_LM",
        pipeline="text-generation",
        long_texts="truncate",
        text_columns=("text", "source", "document", "article", "dialogue", "input", "question"),
        target_columns=("target", "summary", "highlights", "output", "answer"),
    ),
    "chat": TaskFacts(
        holds="messages",
        target="next-token",
        model_class="AutoModelForCausalLM",
        peft="CAUSAL_LM",
        pipeline="text-generation",
        long_texts="truncate",
        evaluation_fraction=0.2,
        text_columns=(),
    ),
    "preference": TaskFacts(
        holds="preferences",
        target="preference",
        model_class="AutoModelForCausalLM",
        peft="CAUSAL_LM",
        pipeline="text-generation",
        long_texts="truncate",
        text_columns=(),
    ),
}
