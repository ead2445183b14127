"""`distrain plan`: bytes per GPU by strategy, what fits, which strategy to take, and what to change where none does."""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distrain_trainer.errors import SettingsError
from distrain_trainer.memory.disk import DiskNeed, disk_need, free_bytes
from distrain_trainer.memory.estimate import KINDS, USED, Bytes, auto_tokens, fits, held, plan
from distrain_trainer.memory.forward import longest
from distrain_trainer.memory.hub_headers import read_headers
from distrain_trainer.memory.model_shapes import Weights, local_model, read_folder, weights_of
from distrain_trainer.memory.two_halves import halves_of
from distrain_trainer.settings.model import Settings, changed
from distrain_trainer.settings.sections import SHARDED, ZERO

GIB, GB, MB = 2**30, 10**9, 10**6
GPUS = {
    "t4": 14.5,
    "v100-16gb": 15.5,
    "v100-32gb": 31.5,
    "l4": 22.0,
    "a10": 22.0,
    "rtx3090": 23.5,
    "rtx4090": 23.5,
    "l40s": 44.0,
    "a6000": 47.0,
    "a100-40gb": 39.0,
    "a100-80gb": 79.0,
    "h100": 79.0,
    "h200": 139.0,
    "b200": 178.0,
    "mi300x": 191.0,
}
"""GiB that a program sees of a GPU's memory, rounded down."""

CHANGES: tuple[tuple[dict[str, object], int], ...] = (
    ({"model.gradient_checkpointing": True}, 1),
    ({"precision": "bf16"}, 1),
    ({"batch.tokens": "auto"}, 1),
    ({}, 2),
    ({"model.gradient_checkpointing": True, "precision": "bf16"}, 1),
    ({"model.gradient_checkpointing": True, "precision": "bf16", "batch.tokens": "auto"}, 1),
    ({}, 4),
    ({}, 8),
    ({"model.gradient_checkpointing": True, "precision": "bf16", "batch.tokens": "auto"}, 4),
    ({"model.gradient_checkpointing": True, "precision": "bf16", "lora.rank": 16}, 1),
    ({"strategy.kind": "zero3", "strategy.offload_optimizer": True, "strategy.offload_parameters": True}, 1),
    ({"precision": "bf16", "lora.rank": 16, "quantization.bits": 4, "model.gradient_checkpointing": True}, 1),
)
"""What may help where nothing fits, mildest first: settings to change, and by how much to multiply the GPUs."""
SUGGESTIONS = 3


@dataclass(frozen=True)
class Row:
    """A strategy. tokens: padded tokens of a micro-batch. bytes: per GPU, None where the settings refuse it: then
    `refused` is the sentence."""

    kind: str
    tokens: int
    bytes: Bytes | None
    fits: bool
    refused: str | None = None


def read_model(settings: Settings) -> Weights:
    """What the files of `model.name` say, in a folder or on the Hub. Raises SettingsError."""
    folder = local_model(settings.model.name)
    if folder:
        config, shapes = read_folder(folder)
    else:
        config, shapes = read_headers(settings.model.name, settings.model.revision)
    of_files = halves_of if config.get("is_encoder_decoder") else weights_of
    return of_files(config, shapes, settings.task)


def memory_of(text: str) -> int:
    """Bytes of `80GB`, `79GiB` or a GPU's name. Raises SettingsError."""
    name = text.strip().lower()
    if name in GPUS:
        return int(GPUS[name] * GIB)
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(gb|gib|g|gi)?", name)
    if match is None or not float(match[1]):
        raise SettingsError(f"--gpu-memory {text} is neither a size such as 80GB nor one of {', '.join(GPUS)}")
    return int(float(match[1]) * (GIB if "i" in (match[2] or "") else GB))


def rows(weights: Weights, settings: Settings, gpus: int, memory: int) -> list[Row]:
    """Every strategy that `gpus` processes can take."""
    found = []
    for kind in KINDS:
        if kind == ("ddp" if gpus == 1 else "single"):
            continue
        try:
            chosen = changed(settings, {"strategy.kind": kind})
        except SettingsError as error:
            found.append(Row(kind, 0, None, False, str(error)))
            continue
        tokens = chosen.batch.tokens
        if tokens == "auto":
            tokens = auto_tokens(weights, chosen, kind, gpus, memory, "cuda")
        planned = plan(weights, chosen, kind, gpus, tokens)
        found.append(Row(kind, tokens, planned, fits(planned, memory)))
    return found


def choice(found: list[Row], wanted: str | None) -> Row | None:
    """The strategy that is set, or else the first that fits; None where it does not fit."""
    return next((row for row in found if row.fits and wanted in (None, row.kind)), None)


def suggestions(weights: Weights, settings: Settings, gpus: int, memory: int) -> list[str]:
    """Changes with which it would fit, as they are typed, each with the strategy and its bytes."""
    found = []
    for values, factor in CHANGES:
        try:
            other = changed(settings, values)
        except SettingsError:
            continue
        if factor == 1 and other == settings:
            continue
        taken = choice(rows(weights, other, gpus * factor, memory), other.strategy.kind)
        if taken is not None and taken.bytes is not None:
            typed = [f"--{name} {str(value).lower()}" for name, value in values.items()]
            typed += [f"--gpus {gpus * factor}"] * (factor > 1)
            found.append(f"{' '.join(typed)}: {taken.kind}, {size(taken.bytes.total)}")
        if len(found) == SUGGESTIONS:
            break
    return found


def fewer_nodes_problem(
    weights: Weights, settings: Settings, tokens: int, nodes: int, processes: int, memory: int, device: str
) -> str | None:
    """Why the run could not go on with `elastic.min_nodes`, since each process then holds a larger share; None where
    it could.

    tokens: padded tokens of a micro-batch. processes: on each node. memory: bytes of a device.
    """
    least, kind = settings.elastic.min_nodes, settings.strategy.kind
    if least is None or least >= nodes or kind is None or kind not in (*ZERO, *SHARDED):
        return None

    def need(count: int) -> Bytes:
        return plan(weights, settings, kind, count * processes, tokens, device)

    if fits(need(least), memory):
        return None
    enough = next((count for count in range(least + 1, nodes) if fits(need(count), memory)), None)
    each = "GPU" if device == "cuda" else "process"
    return (
        f"elastic.min_nodes is {least}, but {kind} on {least} node{'s' * (least > 1)} takes "
        f"{size(need(least).total)} per {each}, of which {size(int(USED * memory))} may be filled; "
        f"{f'set it to {enough}' if enough else 'remove it'}, or see `distrain plan` for what to change"
    )


def document(weights: Weights, settings: Settings, gpus: int, memory: int) -> dict[str, Any]:
    """Everything that the command knows, for programs."""
    found = rows(weights, settings, gpus, memory)
    taken = choice(found, settings.strategy.kind)
    sizes = held(weights, settings)
    micro_batches = settings.batch.micro_batches or gpus
    return {
        "model": settings.model.name,
        "parameters": sizes.trained + sizes.frozen,
        "trained": sizes.trained,
        "precision": settings.precision,
        "gpus": gpus,
        "gpu_memory": memory,
        "usable": int(USED * memory),
        "micro_batches": micro_batches,
        "strategies": [
            {
                "kind": row.kind,
                "tokens": row.tokens,
                "tokens_per_step": row.tokens * micro_batches,
                "longest_row": longest(weights, settings, row.tokens),
                "bytes": asdict(row.bytes) if row.bytes else None,
                "total": row.bytes.total if row.bytes else None,
                "headroom": int(USED * memory) - row.bytes.total if row.bytes else None,
                "fits": row.fits,
                "refused": row.refused,
            }
            for row in found
        ],
        "disk": disk(disk_need(sizes, settings), settings.output_dir),
        "take": taken.kind if taken else None,
        "suggestions": [] if taken else suggestions(weights, settings, gpus, memory),
    }


def disk(need: DiskNeed, folder: str) -> dict[str, Any]:
    """What the run takes on its volume, for programs. free: on this machine, None where that is not known."""
    return asdict(need) | {"total": need.total, "folder": folder, "free": free_bytes(Path(folder))}


def disk_sentence(need: DiskNeed) -> str:
    """`308.0 GB: 3 checkpoints of 84.0 GB, the one being written included, and 56.0 GB for models`."""
    models = f", and {size(need.models)} for models" if need.models else ""
    return (
        f"{size(need.total)}: {need.keep + 1} checkpoints of {size(need.checkpoint)}, the one being written included"
        f"{models}"
    )


def size(count: int) -> str:
    """`12.3 GB`."""
    return f"{count / GB:.1f} GB" if count >= GB else f"{count / MB:.1f} MB"


def show(about: dict[str, Any]) -> None:
    """Prints the document for a person."""
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True, highlight=False, markup=False)
    lines = [line for line in about["strategies"] if line["bytes"]]
    console.print(
        f"{about['model']}: {about['trained']:,} of {about['parameters']:,} parameters are trained, "
        f"{about['precision']}; {about['gpus']} x {size(about['gpu_memory'])}, of which {size(about['usable'])} may be "
        "filled"
    )
    unit, scale = ("GB", GB) if any(line["total"] >= GB for line in lines) else ("MB", MB)
    parts = ["parameters", "gradients", "optimizer", "buckets", "activations", "working"]
    parts += ["host"] * any(line["bytes"]["host"] for line in lines)
    tokens = ["tokens"] * (len({line["tokens"] for line in lines}) > 1)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in (f"{unit} per GPU", *tokens, *parts, "total", "headroom", "fits"):
        table.add_column(column, justify="right" if table.columns else "left", no_wrap=True)
    for line in lines:
        numbers = [line["bytes"][part] for part in parts] + [line["total"], line["headroom"]]
        cells = [line["kind"], *(f"{line[name]:,}" for name in tokens), *(f"{n / scale:,.2f}" for n in numbers)]
        cells.append("yes" if line["fits"] else "no")
        table.add_row(*cells, style=None if line["fits"] else "red")
    console.width = max(console.width, 100)
    console.print(table)
    for line in about["strategies"]:
        if line["refused"]:
            console.print(f"{line['kind']}: {line['refused']}")
    taken = next((line for line in lines if line["kind"] == about["take"]), None)
    need = about["disk"]
    free = "" if need["free"] is None else f"; {size(need['free'])} free here"
    sentence = disk_sentence(DiskNeed(need["checkpoint"], need["keep"], need["models"]))
    console.print(f"disk, in {need['folder']}: up to {sentence}{free}")
    if taken:
        console.print(
            f"take strategy.kind={taken['kind']}: {taken['tokens']:,} tokens per micro-batch x "
            f"{about['micro_batches']} = {taken['tokens_per_step']:,} tokens per step, "
            f"rows up to {taken['longest_row']:,}"
        )
        return
    console.print(
        "nothing fits" + ("; these would:" if about["suggestions"] else ", whatever is changed: take larger GPUs")
    )
    for suggestion in about["suggestions"]:
        console.print(f"  {suggestion}")
