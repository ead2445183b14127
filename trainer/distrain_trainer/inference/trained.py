"""A trained model at work: evaluate it on data, or predict with it. One process."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from distrain_trainer.console import say
from distrain_trainer.data.conversations import as_text
from distrain_trainer.data.labels import read_labels
from distrain_trainer.data.loader import Collator
from distrain_trainer.data.plan import cut
from distrain_trainer.data.sources import LABEL_COLUMNS, TEXT_COLUMNS, find_column, locate, read
from distrain_trainer.data.tokens import Rows, encode, prepare
from distrain_trainer.errors import DataError, SettingsError
from distrain_trainer.hardware.numerics import autocast, set_up_numerics
from distrain_trainer.hardware.threads import threads_for
from distrain_trainer.inference.generate import answer, greedy, prompt_of, question_of
from distrain_trainer.models.load import MODEL_CLASSES, load_model
from distrain_trainer.models.lora import CONFIG, base_of, check_installed, load_weights
from distrain_trainer.models.loss import SummedLoss
from distrain_trainer.parallel.collectives import ProcessRank
from distrain_trainer.settings.model import Settings, changed, flat
from distrain_trainer.settings.reader import read_settings
from distrain_trainer.storage.layout import BEST, published_checkpoints
from distrain_trainer.training.evaluation import evaluate, plan_evaluation
from distrain_trainer.training.probes import choose_loss

CHUNK = 4096
"""Texts that are read, sorted by length and predicted at a time."""
TOP = 5
"""Tokens that are listed for each mask."""


@dataclass(frozen=True)
class Trained:
    """A trained model, as its folder holds it. labels: in the order of their ids, for classification."""

    folder: Path
    settings: Settings
    model: Any
    tokenizer: PreTrainedTokenizerBase
    labels: tuple[str, ...] | None
    device: torch.device

    @property
    def max_length(self) -> int:
        """Longest row, in tokens."""
        assert self.settings.data.max_length is not None
        return self.settings.data.max_length

    @contextmanager
    def working(self) -> Iterator[None]:
        """Without gradients, in the precision of training."""
        with torch.inference_mode(), autocast(self.device, self.settings.precision):
            yield


def model_folder(path: str) -> Path:
    """The model that `path` means: itself, or of a run its final/, else its best, else its newest checkpoint."""
    folder = Path(path)
    for candidate in (folder, folder / "final", folder / BEST, *published_checkpoints(folder)):
        described = (candidate / "config.json").exists() or (candidate / CONFIG).exists()
        if described and (candidate / "settings.json").exists():
            return candidate
    if not folder.exists():
        raise DataError(f"{path} is not there; name a run's folder, its final/ or one of its checkpoints")
    raise DataError(f"{path} holds no trained model; name a run's folder, its final/ or one of its checkpoints")


def load(path: str, flags: dict[str, str]) -> Trained:
    """The model in a run or a checkpoint; an adapter on its base model, which is quantized as in training.

    flags: settings to change, such as batch.tokens, or quantization.bits to null.
    """
    folder = model_folder(path)
    record = json.loads((folder / "settings.json").read_text())
    base = flat(Settings.model_validate(record["settings"]))
    settings = read_settings(None, flags, environment={}, base=base)
    if settings.batch.tokens == "auto":
        raise SettingsError("batch.tokens is auto, which is for training; give a number")
    set_up_numerics(threads_for(1), deterministic=False)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    labels = tuple(record["labels"]) if record["labels"] else None
    if (folder / CONFIG).exists():
        check_installed(settings)
        model = load_model(settings, *base_of(folder), tokenizer, labels)
        load_weights(model, folder)
    else:
        model = MODEL_CLASSES[settings.task].from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    return Trained(folder, settings, model.to(device).eval(), tokenizer, labels, device)


def evaluate_folder(path: str, file: str | None, flags: dict[str, str]) -> dict[str, Any]:
    """Metrics of a trained model on all rows of `file`, or else on the evaluation rows of its own run."""
    trained = load(path, flags)
    rows = rows_of(trained, file) if file else own_rows(trained)
    module = SummedLoss(trained.model, trained.settings.precision).eval()

    def forward(micro_batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        return module(**{name: tensor.to(trained.device) for name, tensor in micro_batch.items()})

    planned = plan_evaluation(rows.lengths, trained.settings)
    collator = Collator.of(trained.settings, rows, trained.tokenizer)
    choose_loss(trained.settings, module, module, collator, say)
    found = evaluate(forward, planned, collator, ProcessRank(0, 1, 0, 1), len(trained.labels or ()))
    assert found is not None
    return {"model": str(trained.folder), "rows": len(planned.rows)} | found.metrics


def own_rows(trained: Trained) -> Rows:
    """The evaluation rows of the run that the model is from."""
    data = prepare(trained.settings, trained.tokenizer, trained.max_length, say)
    if data.evaluation is None:
        raise DataError(f"the run of {trained.folder} had no evaluation rows; name a file to evaluate on")
    return data.evaluation


def rows_of(trained: Trained, file: str) -> Rows:
    """All rows of a file, with labels by the model's own ids."""
    settings = settings_for(trained, file)
    if trained.labels is None:
        return prepare(settings, trained.tokenizer, trained.max_length, say).train
    with TemporaryDirectory(prefix="distrain-") as scratch:
        opened = read(settings.data, locate(settings.data), settings.task, Path(scratch), say).train
        texts = opened[find_column(opened, settings.data.text_column, TEXT_COLUMNS, "data.text_column")]
        label_column = find_column(opened, settings.data.label_column, LABEL_COLUMNS, "data.label_column")
        names, _ = read_labels(opened, label_column, "evaluation")
        unknown = sorted(set(names) - set(trained.labels))
        if unknown:
            raise DataError(
                f"labels that {file} has and the model has not: {', '.join(map(repr, unknown))}; remove their rows"
            )
        rows = encode([text or "" for text in texts], settings, trained.tokenizer, trained.max_length)
    ids = np.asarray([trained.labels.index(name) for name in names], np.int32)
    return Rows(rows.input_ids, rows.offsets, ids, rows.words)


def settings_for(trained: Trained, file: str) -> Settings:
    """The model's settings with all of `file` as its data."""
    changes: dict[str, Any] = {
        "data.name": None,
        "data.files": [file],
        "data.evaluation_files": None,
        "data.evaluation_split": None,
        "data.evaluation_fraction": 0.0,
        "data.split_column": None,
        "data.train_split": "train",
    }
    return changed(trained.settings, changes)


def predict_folder(path: str, file: str | None, output: str | None, max_new_tokens: int) -> None:
    """Writes a JSON object for each text, in order. file: None for lines of stdin. output: None for stdout."""
    if file is not None and not Path(file).exists():
        raise DataError(f"{file} is not there; check the path")
    trained = load(path, {})
    with opened_output(output) as target:
        for predictions in predicted(trained, file, max_new_tokens):
            for prediction in predictions:
                target.write(json.dumps(prediction, ensure_ascii=False) + "\n")
            target.flush()


def predicted(trained: Trained, file: str | None, max_new_tokens: int) -> Iterator[list[dict[str, Any]]]:
    """The predictions for `file` or stdin, as many together as are made together."""
    if trained.settings.task == "chat":
        for where, row in conversations_in(trained, file):
            conversation = question_of(row, trained.settings.chat, where)
            text = answer(trained, prompt_of(trained.tokenizer, conversation, where), max_new_tokens, where)
            yield [{"messages": conversation.messages, "answer": text}]
        return
    predictors: dict[str, Callable[[Trained, list[str]], list[dict[str, Any]]]] = {
        "sequence-classification": classify,
        "masked-lm": fill_masks,
        "causal-lm": lambda trained, texts: continue_texts(trained, texts, max_new_tokens),
    }
    for texts in chunks(texts_of(trained, file)):
        yield predictors[trained.settings.task](trained, texts)


def classify(trained: Trained, texts: list[str]) -> list[dict[str, Any]]:
    """{"text", "label", "score", "scores"} of each text; scores are probabilities by label."""
    assert trained.labels is not None
    found: list[dict[str, Any]] = [{}] * len(texts)
    for numbers, logits in each_batch(trained, texts):
        for number, scores in zip(numbers, logits.float().softmax(-1).tolist(), strict=True):
            best = int(np.argmax(scores))
            named = {label: round(score, 6) for label, score in zip(trained.labels, scores, strict=True)}
            found[number] = {
                "text": texts[number],
                "label": trained.labels[best],
                "score": named[trained.labels[best]],
                "scores": named,
            }
    return found


def fill_masks(trained: Trained, texts: list[str]) -> list[dict[str, Any]]:
    """{"text", "masks"}: for each mask token of a text the likeliest tokens and their probabilities."""
    found: list[dict[str, Any]] = [{"text": text, "masks": []} for text in texts]
    mask = trained.tokenizer.mask_token_id
    encoded = encode(texts, trained.settings, trained.tokenizer, trained.max_length)
    for numbers, logits in each_batch(trained, texts, encoded):
        for row, number in enumerate(numbers):
            ids = encoded.input_ids[encoded.offsets[number] : encoded.offsets[number + 1]]
            for position in np.flatnonzero(ids == mask):
                top = logits[row, int(position)].float().softmax(-1).topk(TOP)
                tokens = trained.tokenizer.convert_ids_to_tokens(top.indices.tolist())
                pairs = zip(tokens, top.values.tolist(), strict=True)
                found[number]["masks"].append([{"token": t, "score": round(s, 6)} for t, s in pairs])
    return found


def continue_texts(trained: Trained, texts: list[str], max_new_tokens: int) -> list[dict[str, Any]]:
    """{"text", "continuation"} of each text, by greedy decoding."""
    found = []
    for text in texts:
        prompt = trained.tokenizer(text, truncation=True, max_length=trained.max_length)["input_ids"]
        new = greedy(trained, prompt, max_new_tokens)
        found.append({"text": text, "continuation": trained.tokenizer.decode(new, skip_special_tokens=True)})
    return found


def each_batch(
    trained: Trained, texts: list[str], rows: Rows | None = None
) -> Iterator[tuple[list[int], torch.Tensor]]:
    """(numbers of the texts, logits) of micro-batches of texts of like length."""
    rows = rows or encode(texts, trained.settings, trained.tokenizer, trained.max_length)
    batch = trained.settings.batch
    planned = cut(rows.lengths, np.arange(len(rows)), batch.limit, batch.samples)
    pad = trained.tokenizer.pad_token_id
    for index in range(len(planned)):
        numbers = planned[index]
        shape = len(numbers), max(int(rows.lengths[numbers].max()), 1)
        ids, mask = np.full(shape, pad, np.int64), np.zeros(shape, np.int64)
        for row, number in enumerate(numbers):
            tokens = rows.input_ids[rows.offsets[number] : rows.offsets[number + 1]]
            ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
        with trained.working():
            inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
            logits = trained.model(**{name: tensor.to(trained.device) for name, tensor in inputs.items()}).logits
        yield numbers.tolist(), logits.cpu()


def texts_of(trained: Trained, file: str | None) -> Iterator[str]:
    """Lines of stdin or of a .txt file, or the text column of a data file."""
    if file is None:
        yield from (line.removesuffix("\n") for line in sys.stdin)
    elif file.endswith(".txt"):
        with Path(file).open(encoding="utf-8-sig") as lines:
            yield from (line.removesuffix("\n") for line in lines)
    else:
        data = settings_for(trained, file).data
        with TemporaryDirectory(prefix="distrain-") as scratch:
            rows = read(data, locate(data), trained.settings.task, Path(scratch), say).train
            column = find_column(rows, data.text_column, TEXT_COLUMNS, "data.text_column")
            for row in rows.select_columns(column):
                yield row[column] or ""


def conversations_in(trained: Trained, file: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """(`line 3`, the row) of JSON lines on stdin, each an object or a list of messages, or of a data file."""
    if file is None:
        for number, line in enumerate(filter(str.strip, sys.stdin), 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"line {number} is no JSON ({error}); give an object with messages on each") from error
            row = row if isinstance(row, dict) else {"messages": row}
            yield f"line {number}", {name: as_text(value) for name, value in row.items()}
        return
    data = settings_for(trained, file).data
    with TemporaryDirectory(prefix="distrain-") as scratch:
        for number, row in enumerate(read(data, locate(data), "chat", Path(scratch), say).train, 1):
            yield f"{file} row {number}", row


def chunks(texts: Iterator[str]) -> Iterator[list[str]]:
    """Lists of up to CHUNK texts; on a terminal each line is answered at once."""
    chunk: list[str] = []
    size = 1 if sys.stdin.isatty() else CHUNK
    for text in texts:
        chunk.append(text)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


@contextmanager
def opened_output(output: str | None) -> Iterator[IO[str]]:
    """The file to write to, or stdout."""
    if output is None:
        yield sys.stdout
        return
    try:
        Path(output).touch()
    except OSError as error:
        raise SettingsError(f"--output {output} cannot be written: {error.strerror}; name another file") from None
    with Path(output).open("w", encoding="utf-8") as file:
        yield file
