"""What a run leaves besides its checkpoints: settings.json, training_info.json, final/ and the report."""

import math
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distrain_trainer.console import clock, short
from distrain_trainer.errors import DistrainError, OutOfTime, Regrouping, Stopped
from distrain_trainer.hardware import machine
from distrain_trainer.models.load import config_to_write
from distrain_trainer.models.lora import is_adapter, write_config
from distrain_trainer.parallel import collectives
from distrain_trainer.reporting.model_card import model_card
from distrain_trainer.reporting.report import write_report
from distrain_trainer.reporting.trackers.api import Status
from distrain_trainer.secrets import without_secrets
from distrain_trainer.storage.files import sync_folder, write_json, write_text
from distrain_trainer.storage.layout import BEST, RECORDS, links_to_final, published_checkpoints
from distrain_trainer.storage.metrics_log import read_metrics
from distrain_trainer.storage.previous import remove_previous
from distrain_trainer.storage.retry import FULL, with_retries
from distrain_trainer.training.checkpoint.format import TrainingState, reason
from distrain_trainer.training.checkpoint.retention import NEW_FINAL, Retention, copy_model
from distrain_trainer.training.export import convert
from distrain_trainer.training.resolve import ResolvedRun
from distrain_trainer.training.session import TrainingSession

STATUS: dict[type[DistrainError], Status] = {Stopped: "stopped", Regrouping: "stopped", OutOfTime: "out_of_time"}
"""How training_info.json calls the end of a run by an error; `failed` for any other."""


def settings_record(resolved: ResolvedRun, parameters: dict[str, int]) -> dict[str, Any]:
    """settings.json: what was asked for at the first start, what was decided, and what it ran on.

    parameters: their numbers, {"all", "trainable"}. There are no secrets, because those are not settings. Only process
    0 writes it, and works out what takes long. tracking_id names the run in trackers: run ids are used again.
    """
    settings, data, plan, world = resolved.settings, resolved.data, resolved.plan, resolved.process.world
    return {
        "run_id": resolved.run_id,
        "tracking_id": (resolved.stored or {}).get("tracking_id") or secrets.token_hex(6),
        "command": _command(),
        "settings": settings.model_dump(mode="json"),
        "asked": resolved.asked,
        "data": {
            "description": data.origin.description,
            "fingerprint": data.fingerprint,
            "commit": data.origin.commit,
            "counts": data.counts,
            "train_rows": len(data.train),
            "evaluation_rows": len(data.evaluation) if data.evaluation else 0,
        },
        "labels": list(data.label_names) if data.label_names else None,
        "versions": machine.versions(),
        "git_commit": machine.git_commit(),
        "world_size": world,
        "threads": resolved.threads,
        "hardware": machine.hardware(),
        "parameters": parameters,
        "plan": {
            "steps": plan.steps,
            "steps_per_epoch": [int(end - start) for start, end in zip([0, *plan.ends], plan.ends, strict=False)],
            "padding_fraction": plan.padding(),
            "imbalance": plan.imbalance(world) if resolved.process.is_main else None,
        },
    }


def _command() -> list[str]:
    """The command that started the run, as it can be typed again to continue it."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--overwrite"]
    known: list[str] = without_secrets(arguments)
    return ["distrain", *([] if arguments[:1] == ["train"] else ["train"]), *known]


def write_model_files(
    folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, record: dict[str, Any]
) -> None:
    """Writes what from_pretrained, evaluate and predict need besides the weights. record: settings.json."""
    if is_adapter(model):
        write_config(model, folder)
    else:
        config = config_to_write(model)
        config.architectures = [type(model).__name__]
        config.save_pretrained(folder)
        if model.can_generate() and model.generation_config is not None:
            model.generation_config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json(folder / "settings.json", record)


def publish(session: TrainingSession, record: dict[str, Any]) -> None:
    """Leaves the results of a finished run. On all processes. record: settings.json.

    What comes after it, such as the answers of a chat, cannot fail the run any more.
    """
    if session.process.is_main:
        folder, retention = session.resolved.folder, session.checkpoints.retention
        retention.fence.check()
        metrics = session.evaluation.metrics if session.evaluation else None
        with_room(lambda: publish_final(folder, record, session.state, metrics, session.model_alone), retention)
        if session.model_alone:
            retention.keep_best(session.state, folder / "final")
        with_room(lambda: conclude(session, error=None), retention)
        for gone in remove_previous(folder):
            session.say(f"the run before, in {gone}, was removed")
    collectives.from_main(None)  # no process leaves before the results are on disk


def with_room(write: Callable[[], None], retention: Retention) -> None:
    """Writes a part of the results; on a full disk older checkpoints make room. Raises VolumeError, VolumeLost."""

    def write_with_room() -> None:
        while True:
            try:
                return write()
            except OSError as error:
                if error.errno not in FULL or not retention.make_room():
                    raise

    with_retries("cannot be written", retention.folder, write_with_room)


def publish_final(
    folder: Path,
    record: dict[str, Any],
    state: TrainingState,
    metrics: Mapping[str, float] | None = None,
    model_alone: bool = False,
) -> None:
    """Makes `final/` from the last checkpoint: model, tokenizer and model card. Raises OSError.

    record: settings.json. metrics: of its evaluation. model_alone: there is no checkpoint of the last step, and its
    model is ready.
    """
    new = folder / NEW_FINAL if model_alone else copy_model(published_checkpoints(folder)[0], NEW_FINAL)
    if (dtype := record["settings"]["model"].get("final_dtype", "fp32")) != "fp32":
        convert(new, dtype)
    write_text(new / "README.md", model_card(record, state.step, state.tokens, state.best, metrics))
    final = folder / "final"
    if final.exists():
        final.rename(folder / "tmp.final.old")
    new.rename(final)
    shutil.rmtree(folder / "tmp.final.old", ignore_errors=True)
    link_final(folder)
    sync_folder(folder)


def link_final(folder: Path) -> None:
    """Lets `from_pretrained` and PeftModel load the final model from the run's folder itself, by links into `final/`.

    What is there under such a name and is no link of ours stays. On a volume without links `final/` has to do.
    """
    for path in links_to_final(folder):
        path.unlink()
    for path in (folder / "final").iterdir():
        link = folder / path.name
        if path.name not in (*RECORDS, "README.md") and not os.path.lexists(link):
            with suppress(OSError):
                link.symlink_to(Path("final", path.name))


def conclude_early(session: TrainingSession, error: DistrainError) -> None:
    """Leaves the results of a session that ends before the run is finished. On all processes.

    A disk that does not take them must not hide `error`, which decides what the cluster does next.
    """
    if not session.process.is_main:
        return
    try:
        conclude(session, error)
    except OSError as failed:
        session.say(f"training_info.json and report.html could not be written ({reason(failed)})")
    except DistrainError as failed:
        session.say(f"training_info.json and report.html were not written: {failed}")


def conclude(
    session: TrainingSession, error: DistrainError | None, answers: list[dict[str, str]] | None = None
) -> None:
    """Writes training_info.json, of a finished run also final_training_info.json, and the report.

    error: why the session ends before the run is finished. answers: samples of a chat.
    Raises OSError, Superseded, VolumeError, VolumeLost.
    """
    folder = session.resolved.folder
    session.checkpoints.retention.fence.check()
    info = {"answers": None} | training_info(session, error) | ({} if answers is None else {"answers": answers})
    write_json(folder / "training_info.json", info)
    if error is None:
        write_json(folder / "final_training_info.json", info)
    write_report(folder)


def training_info(session: TrainingSession, error: DistrainError | None) -> dict[str, Any]:
    """training_info.json: how it went, for people and programs."""
    state, settings, data = session.state, session.settings, session.resolved.data
    found = session.evaluation
    return {
        "status": status_of(error),
        "error": None if error is None else without_secrets(str(error)),
        "step": state.step,
        "steps": session.plan.steps,
        "epoch": session.plan.epochs_done(state.step),
        "final": found.metrics if found else {},
        "best": state.best,
        "tokens": state.tokens,
        "samples": state.samples,
        "seconds": state.seconds,
        "tokens_per_second": state.tokens / state.seconds if state.seconds else None,
        "padding_fraction": 1 - state.tokens / state.padded_tokens if state.padded_tokens else None,
        "model": settings.model.name,
        "dataset": data.origin.description,
        "world_size": session.process.world,
        "batch": settings.batch.model_dump(mode="json"),
        "learning_rate": settings.optimizer.learning_rate,
        "confusion_matrix": None,
        **(found.details if found else {}),
        **usual_names(session),
    }


def status_of(error: DistrainError | None) -> Status:
    """How training_info.json calls the end of a run. error: why it ends before it is finished."""
    return "finished" if error is None else STATUS.get(type(error), "failed")


def usual_names(session: TrainingSession) -> dict[str, Any]:
    """What scripts for other trainers read from training_info.json, under their names.

    batch_size: rows of a micro-batch, which is what one process computes at once; the average where batch.samples is
    unset. effective_batch_size: the average rows of a step. best_eval_loss: the lowest of all evaluations, None where
    there was none.
    """
    state, settings, data = session.state, session.settings, session.resolved.data
    slots = session.plan.slots(session.process.world)
    step_rows = state.samples / state.step if state.step else None
    micro_batches = settings.batch.micro_batches or session.process.world
    losses = [line.get("eval_loss") for line in read_metrics(session.resolved.folder / "metrics.jsonl")]
    if session.evaluation:
        losses.append(session.evaluation.metrics["loss"])
    return {
        "model_name": settings.model.name,
        "dataset_name": settings.data.name or data.origin.description,
        "global_step": session.state.step,
        "max_steps": session.plan.steps,
        "batch_size": settings.batch.samples or (step_rows and max(round(step_rows / micro_batches), 1)),
        "gradient_accumulation_steps": slots,
        "effective_batch_size": step_rows and round(step_rows),
        "best_eval_loss": min((loss for loss in losses if loss is not None and math.isfinite(loss)), default=None),
    }


def closing_sentences(session: TrainingSession) -> list[str]:
    """What a person reads last."""
    state, folder = session.state, session.resolved.folder
    speed = short(state.tokens / max(state.seconds, 1e-9))
    sentences = [f"done: {state.step} steps, {short(state.tokens)} tokens in {clock(state.seconds)}, {speed} tokens/s"]
    if session.evaluation:
        values = session.evaluation.metrics
        shown = session.headline
        sentences.append(", ".join(f"{name.replace('_', ' ')} {values[name]:.4f}" for name in shown if name in values))
    if state.best:
        best = state.best
        sentences.append(f"best {best['metric']} {best['value']:.4f} at step {best['step']}, in {folder / BEST}")
    return [*sentences, f"model: {folder / 'final'}", f"report: {folder / 'report.html'}"]
