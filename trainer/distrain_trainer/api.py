"""Training, evaluation and prediction from Python, over the same settings as the command line.

A run is `distrain train` in a process of its own, as from a shell: its processes, its restarts and its folder are the
same, and nothing of it stays in a notebook. What comes back is frozen; what goes wrong is an exception of `errors`.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from distrain_trainer import errors
from distrain_trainer.settings.model import Settings, explicit, flat, nested
from distrain_trainer.settings.reader import read_settings

Source = str | Path | Mapping[str, Any] | Settings | None
"""Settings: the path of a file, names and values (nested, or with dots), or as they were read."""
SENTENCE = "distrain: "
"""Begins the line in which a run says why it ended."""
ERRORS = (
    errors.SettingsError,
    errors.DataError,
    errors.CheckpointError,
    errors.RestartsUsedUp,
    errors.TrainingError,
    errors.OutOfTime,
    errors.VolumeError,
    errors.Stopped,
)


@dataclass(frozen=True)
class TrainingResult:
    """A finished run.

    folder: of its results; model is in it. metrics: of the last evaluation, empty without one. best: metric, value and
    step of the best model, None without one. record: training_info.json.
    """

    folder: Path
    steps: int
    metrics: dict[str, float]
    best: dict[str, Any] | None
    record: dict[str, Any]

    @property
    def model(self) -> Path:
        """The folder of the trained model."""
        return self.folder / "final"


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a model, without a prefix. model: its folder or name. rows: that were evaluated."""

    model: str
    rows: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Prediction:
    """What a model says of one input. output: by name, as `distrain predict` writes it; what that is depends on the
    task."""

    output: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.output[name]


def train(
    settings: Source = None,
    *,
    processes: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    tell: Callable[[str], None] = print,
    **more: Any,
) -> TrainingResult:
    """Trains to the end, and returns what came out.

    settings: a file, a mapping or `Settings`. more: sections or settings over them, such as
    `model={"name": "gpt2"}, output_dir="out"`. processes, resume, overwrite: as for `distrain train`. tell: takes each
    line that the run prints. Interrupting it stops the run behind a checkpoint. Raises DistrainError.
    """
    with TemporaryDirectory(prefix="distrain-") as scratch:
        file = Path(scratch) / "settings.json"
        file.write_text(json.dumps(_tree(settings, more)))
        asked = read_settings(str(file), {})
        arguments = ["train", str(file)]
        arguments += [] if processes is None else ["--processes", str(processes)]
        arguments += ["--resume"] * resume + ["--overwrite"] * overwrite
        _run([sys.executable, "-m", "distrain_k8s.cli", *arguments], tell)
    folder = Path(asked.output_dir)
    record = json.loads((folder / "training_info.json").read_text())
    return TrainingResult(folder, record["step"], record["final"], record["best"], record)


def evaluate(
    model: str | Path, data: str | Path | None = None, *, checkpoint: str | None = None, **settings: Any
) -> Evaluation:
    """Metrics of a trained model on the evaluation rows of its own run, or on other data.

    model: a run's folder, one of its models, or a model that was trained elsewhere. data: a file. checkpoint: which of
    a run's models to take. settings: sections or settings to change, such as `data={"name": "imdb"}`. Raises
    DistrainError.
    """
    _quieten()
    from distrain_trainer.inference.evaluate import evaluate_folder

    found = evaluate_folder(str(model), None if data is None else str(data), _flags(settings), checkpoint)
    return Evaluation(found.pop("model"), found.pop("rows"), found)


def predict(
    model: str | Path,
    inputs: str | Path | Iterable[str | Mapping[str, Any]],
    *,
    max_new_tokens: int | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    repetition_penalty: float = 1.0,
    seed: int = 42,
    checkpoint: str | None = None,
    **settings: Any,
) -> list[Prediction]:
    """What a trained model says of each input, in order.

    inputs: a path of a file; or texts (for chat what the user says, for preference the prompt), or rows with the
    columns that the task reads (for chat such as `{"messages": [...]}`). max_new_tokens: of an answer; the options
    after it as for `distrain predict`. checkpoint, settings: as for `evaluate`. Raises DistrainError.
    """
    _quieten()
    from distrain_trainer.inference.predict import predictions_for
    from distrain_trainer.inference.sampling import Sampling
    from distrain_trainer.inference.trained import load

    sampling = Sampling(temperature, top_p, top_k, repetition_penalty, seed)
    trained = load(str(model), _flags(settings), checkpoint)
    with TemporaryDirectory(prefix="distrain-") as scratch:
        if isinstance(inputs, str | Path):
            file = Path(inputs)
        else:
            file = Path(scratch) / "inputs.jsonl"
            name = _text_column(trained.settings)
            rows = [{name: row} if isinstance(row, str) else dict(row) for row in inputs]
            if not rows:
                return []
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        made = predictions_for(trained, str(file), max_new_tokens, sampling=sampling)
        return [Prediction(prediction) for chunk in made for prediction in chunk]


def _text_column(settings: Settings) -> str:
    """The column in which `predict` reads a text that is given alone."""
    if settings.facts.compares:
        return settings.preference.column("prompt")
    return "prompt" if settings.facts.holds == "messages" else settings.data.text_column or "text"


def _tree(settings: Source, more: Mapping[str, Any]) -> dict[str, Any]:
    """All that was asked for, nested. Raises SettingsError."""
    values: dict[str, Any] = {}
    for source in (settings, more):
        if isinstance(source, str | Path):
            source = read_settings(str(source), {}, environment={})
        if isinstance(source, Settings):
            values |= {name: value for name, value in flat(source).items() if name in explicit(source)}
        else:
            values |= _dotted(source or {})
    return nested(values)


def _dotted(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names and values of settings in sections; the value of a setting may be a mapping itself."""
    known = flat(Settings())
    values: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and prefix + name not in known:
            values |= _dotted(value, f"{prefix}{name}.")
        else:
            values[prefix + name] = value
    return values


def _flags(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings as the command line has them."""

    def text(value: Any) -> str:
        return json.dumps(value) if value is None or isinstance(value, list | bool) else str(value)

    return {name: text(value) for name, value in _dotted(settings).items()}


def _run(command: list[str], tell: Callable[[str], None]) -> None:
    """Runs a command, and hands on its lines. Raises DistrainError where it fails, KeyboardInterrupt once it has left
    after an interrupt."""
    environment = {name: value for name, value in os.environ.items() if name != "LOCAL_RANK"}
    last = ""
    with subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                last = line.removeprefix(SENTENCE).strip() if line.startswith(SENTENCE) else last
                tell(line.rstrip("\n"))
        except BaseException:
            process.send_signal(signal.SIGTERM)
            process.wait()
            raise
    if process.returncode:
        raise _error(process.returncode, last)


def _error(code: int, sentence: str) -> errors.DistrainError:
    """The exception of an exit code. sentence: why, as the run has said it."""
    kind = next((kind for kind in ERRORS if kind.exit_code == code), errors.DistrainError)
    error = kind(sentence or f"the run ended with exit code {code}")
    error.exit_code = code
    return error


def _quieten() -> None:
    from distrain_trainer.__main__ import quieten_libraries

    quieten_libraries()
