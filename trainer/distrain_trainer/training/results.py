"""What a run leaves beside its checkpoints: settings.json, training_info.json, final/ and the report."""

import json
import shutil
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distrain_trainer.console import clock, short
from distrain_trainer.data.plan import Plan
from distrain_trainer.data.tokens import Tokenized
from distrain_trainer.hardware import machine
from distrain_trainer.models.load import config_to_write
from distrain_trainer.models.lora import is_adapter, write_config
from distrain_trainer.parallel.collectives import ProcessRank
from distrain_trainer.reporting.report import write_report
from distrain_trainer.settings.model import Settings, explicit, flat
from distrain_trainer.storage.files import sync_folder, write_json, write_text
from distrain_trainer.storage.run_folder import Claim
from distrain_trainer.training.checkpoint import BEST, Checkpoints, State, numbered

if TYPE_CHECKING:
    from distrain_trainer.training.loop import Run


def settings_record(
    claimed: Claim,
    asked: Settings,
    settings: Settings,
    data: Tokenized,
    plan: Plan,
    process: ProcessRank,
    threads: int,
    parameters: dict[str, int],
) -> dict[str, Any]:
    """settings.json: what was asked for at the first start, what was decided, and what it ran on. No secrets: they are
    no settings."""
    stored = claimed.stored or {}
    asked_values = flat(asked)
    return {
        "run_id": stored.get("run_id") or asked.run_id or uuid.uuid4().hex[:12],
        "command": _command(),
        "settings": settings.model_dump(mode="json"),
        "asked": stored.get("asked") or {name: asked_values[name] for name in sorted(explicit(asked))},
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
        "world_size": process.world,
        "threads": threads,
        "hardware": machine.hardware(),
        "parameters": parameters,
        "plan": {
            "steps": plan.steps,
            "steps_per_epoch": [int(end - start) for start, end in zip([0, *plan.ends], plan.ends, strict=False)],
            "padding_fraction": plan.padding(),
            "imbalance": plan.imbalance(process.world) if process.is_main else None,
        },
    }


def _command() -> list[str]:
    """The command that started the run, as it can be typed again to continue it."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--overwrite"]
    return ["distrain", *([] if arguments[:1] == ["train"] else ["train"]), *arguments]


def write_model_files(
    folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, record: dict[str, Any]
) -> None:
    """What from_pretrained, evaluate and predict need beside the weights."""
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


def is_finished(folder: Path, steps: int) -> bool:
    """Whether the run in `folder` has come to the end of a schedule of this many steps."""
    try:
        info = json.loads((folder / "training_info.json").read_text())
    except (FileNotFoundError, ValueError):
        return False
    return info["status"] == "finished" and info["steps"] == steps and (folder / "final").is_dir()


def publish_final(folder: Path, checkpoints: Checkpoints, record: dict[str, Any], state: State) -> None:
    """Makes `final/` from the last checkpoint: model, tokenizer and model card."""
    new = checkpoints.copy_model(numbered(folder)[0], "tmp.final")
    write_text(new / "README.md", model_card(record, state))
    final = folder / "final"
    if final.exists():
        final.rename(folder / "tmp.final.old")
    new.rename(final)
    shutil.rmtree(folder / "tmp.final.old", ignore_errors=True)
    sync_folder(folder)


def model_card(record: dict[str, Any], state: State) -> str:
    """README.md of a trained model."""
    settings, data = record["settings"], record["data"]
    best, rank = state.best, settings["lora"]["rank"]
    lines = [
        *card_head(settings, "peft" if rank else "transformers", "fine-tuned by distrain"),
        f"- data: {data['description']}: {data['train_rows']:,} training, {data['evaluation_rows']:,} evaluation rows",
        f"- steps: {state.step:,}, {state.tokens:,} tokens",
        *([adapter_line(settings)] if rank else []),
        f"- {settings['optimizer']['name']}, learning rate {settings['optimizer']['learning_rate']:g}, "
        f"{settings['schedule']['kind']} schedule, {settings['precision']}",
    ]
    if best:
        lines.append(f"- best evaluation: {best['metric']} {best['value']:.4f} at step {best['step']}")
    names = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    return "\n".join([*lines, f"- made with: {names}", ""])


def card_head(settings: dict[str, Any], library: str, made: str) -> list[str]:
    """The first lines of a model card: what the Hub reads, the title, what was trained."""
    base = settings["model"]
    return [
        "---",
        f"library_name: {library}",
        f"pipeline_tag: {PIPELINES[settings['task']]}",
        "---",
        "",
        f"# {Path(base['name']).name} {made}",
        "",
        f"- task: {settings['task']}",
        f"- base model: {base['name']}" + (f" at {base['revision']}" if base["revision"] else ""),
    ]


def adapter_line(settings: dict[str, Any]) -> str:
    """The line of a model card about the adapter."""
    lora, bits = settings["lora"], settings["quantization"]["bits"]
    base = f"the base in {bits} bits" if bits else "the base frozen"
    layers = ", ".join(lora["target_modules"])
    return f"- adapter: LoRA of rank {lora['rank']}, alpha {lora['alpha']:g}, on {layers}; {base}"


PIPELINES = {
    "sequence-classification": "text-classification",
    "causal-lm": "text-generation",
    "masked-lm": "fill-mask",
    "chat": "text-generation",
}


def conclude(
    run: "Run", record: dict[str, Any], status: str, error: str | None, answers: list[dict[str, str]] | None = None
) -> None:
    """Writes training_info.json and the report of a run that ends here, well or badly. answers: samples of a chat."""
    folder = Path(run.settings.output_dir)
    write_json(folder / "training_info.json", training_info(run, record, status, error) | {"answers": answers})
    write_report(folder)


def training_info(run: "Run", record: dict[str, Any], status: str, error: str | None) -> dict[str, Any]:
    """training_info.json: how it went, for people and programs."""
    state, settings = run.state, run.settings
    found = run.evaluation
    matrix = None
    if found is not None and found.matrix is not None:
        matrix = {"labels": record["labels"], "counts": found.matrix.tolist()}
    return {
        "status": status,
        "error": error,
        "step": state.step,
        "steps": run.plan.steps,
        "epoch": run.plan.epochs_done(state.step),
        "final": found.metrics if found else {},
        "best": state.best,
        "tokens": state.tokens,
        "samples": state.samples,
        "seconds": state.seconds,
        "tokens_per_second": state.tokens / state.seconds if state.seconds else None,
        "padding_fraction": 1 - state.tokens / state.padded_tokens if state.padded_tokens else None,
        "model": settings.model.name,
        "dataset": record["data"]["description"],
        "world_size": run.process.world,
        "batch": settings.batch.model_dump(mode="json"),
        "learning_rate": settings.optimizer.learning_rate,
        "confusion_matrix": matrix,
    }


def closing_sentences(folder: Path, run: "Run") -> list[str]:
    """What a person reads last."""
    state = run.state
    speed = short(state.tokens / max(state.seconds, 1e-9))
    sentences = [f"done: {state.step} steps, {short(state.tokens)} tokens in {clock(state.seconds)}, {speed} tokens/s"]
    if run.evaluation:
        values = run.evaluation.metrics
        shown = ("accuracy", "f1_macro") if run.classes else ("loss", "perplexity")
        sentences.append(", ".join(f"{name.replace('_', ' ')} {values[name]:.4f}" for name in shown))
    if state.best:
        best = state.best
        sentences.append(f"best {best['metric']} {best['value']:.4f} at step {best['step']}, in {folder / BEST}")
    return [*sentences, f"model: {folder / 'final'}", f"report: {folder / 'report.html'}"]
