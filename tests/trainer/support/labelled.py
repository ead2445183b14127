"""Small data for each task that has labels, in files, and runs on them in this process."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

import adapters
import tiny
from distrain_trainer.inference.evaluate import evaluate_folder
from distrain_trainer.inference.predict import predict_folder
from distrain_trainer.settings.model import Settings

SIGNS = {"animals": "cat", "films": "story", "numbers": "7"}
"""A word that gives a text's topic away."""
LINES = {"animals": tiny.LINES[:2], "films": tiny.LINES[2:5], "numbers": tiny.LINES[5:]}

Row = dict[str, Any]


def words_about(topic: str, draw: random.Random, most: int = 20) -> list[str]:
    """A text about a topic: its sign twice, and 3 words or more."""
    return [SIGNS[topic]] * 2 + draw.choices(" ".join(LINES[topic]).split(), k=draw.randint(3, most))


def pair(draw: random.Random) -> Row:
    """A pair of texts whose label is the topic of the second."""
    first, second = draw.choice(sorted(SIGNS)), draw.choice(sorted(SIGNS))
    texts = [" ".join(words_about(topic, draw)) for topic in (first, second)]
    return {"premise": texts[0], "hypothesis": texts[1], "label": second}


def uneven(draw: random.Random) -> Row:
    """A text with a label that is mostly the same."""
    (topic,) = draw.choices(("animals", "films", "numbers"), (8, 2, 1))
    return {"text": " ".join(words_about(topic, draw)), "label": topic}


def topics(draw: random.Random) -> Row:
    """A text about some topics, or about none of them, and which."""
    found = [topic for topic in sorted(SIGNS) if draw.random() < 0.5]
    words = [SIGNS[topic] for topic in found] * 3 + ["the", "lazy", "fox"]
    draw.shuffle(words)
    return {"text": " ".join(words), "labels": found}


def stars(draw: random.Random) -> Row:
    """A text of good and bad words, and how many are good: 0 to 4."""
    good = draw.randint(0, 4)
    words = ["wonderful"] * good + ["terrible"] * (4 - good)
    draw.shuffle(words)
    return {"text": " ".join(words), "label": good}


def people(draw: random.Random) -> Row:
    """A sentence of words that are tagged: a fox, which may be lazy, is a person, the mat and its log are places."""
    words, tags = [], []
    for _ in range(draw.randint(2, 6)):
        kind = draw.choice(("PER", "LOC", "O"))
        found = {"PER": ["fox", "lazy"], "LOC": ["mat", "log"], "O": ["sat", "the"]}[kind][: draw.randint(1, 2)]
        words += [*found, "and"]
        tags += ["O"] * len(found) if kind == "O" else [f"{'I' if n else 'B'}-{kind}" for n in range(len(found))]
        tags.append("O")
    return {"tokens": words, "ner_tags": tags}


def first_words(draw: random.Random) -> Row:
    """A text, and its first words: what is to be written of it."""
    words = draw.choices(["cat", "dog", "fox", "mat", "log", "story", "lazy", "quick"], k=draw.randint(2, 12))
    return {"source": " ".join(words), "summary": " ".join(words[: draw.randint(1, 3)])}


def answers(draw: random.Random) -> Row:
    """A text, and two answers to it: its first word, which is the better one, and some words of it."""
    words = draw.choices(["cat", "dog", "fox", "mat", "log", "story", "lazy", "quick"], k=draw.randint(2, 8))
    others = " ".join(draw.choices(words, k=draw.randint(2, 5)))
    return {"prompt": " ".join(words) + ":", "chosen": f" {words[0]}", "rejected": f" {others}"}


def judged(draw: random.Random) -> Row:
    """A text, and one of the answers to it: desirable where it is the better one."""
    row = answers(draw)
    label = draw.random() < 0.6
    return {"prompt": row["prompt"], "completion": row["chosen" if label else "rejected"], "label": label}


def of_pairs() -> PreTrainedTokenizerFast:
    """The tokenizer of `tiny_bert`, which tells the model which of two texts a token is of, as BERT's does."""
    tokenizer = tiny.wordpiece()
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    return tokenizer


PAIRS = {"data.text_column": "premise", "data.text_pair_column": "hypothesis"}


def written(path: Path, rows: int, make: Callable[[random.Random], Row], seed: int = 0) -> Path:
    """A file of rows."""
    draw = random.Random(seed)
    path.write_text("".join(json.dumps(make(draw)) + "\n" for _ in range(rows)))
    return path


def settings_of(model: Path, file: Path, output: Path, **more: Any) -> Settings:
    """Settings of a small run that learns quickly. more: by dotted names."""
    quick = {"optimizer.learning_rate": 5e-3, "schedule.epochs": 4, "data.evaluation_fraction": 0.2}
    return adapters.settings_of(model, file, output, **(quick | more))


def predicted(folder: Path, file: Path, output: Path, **flags: str) -> list[Row]:
    """What `distrain predict` says of a file."""
    predict_folder(str(folder), str(file), str(output), 1, flags)
    return [json.loads(line) for line in output.read_text().splitlines()]


def evaluated(folder: Path, file: Path | None = None, **flags: str) -> dict[str, Any]:
    """What `distrain evaluate` says."""
    return evaluate_folder(str(folder), None if file is None else str(file), flags)


def rows_of(file: Path) -> list[Row]:
    """The rows of a file of JSON lines."""
    return [json.loads(line) for line in file.read_text().splitlines()]
