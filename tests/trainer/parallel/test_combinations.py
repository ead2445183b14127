"""What goes with what: every strategy with every way to train, tried, and the table of it in docs/strategies.md.

`WRITE=1 make test-matrix` writes the table anew.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest

import labelled
import tiny
from cells import STRATEGIES, cell, launch
from runs import losses

DOCS = Path(__file__).parents[3] / "docs" / "strategies.md"
BEGIN, END = "<!-- combinations -->\n", "<!-- /combinations -->"
WSD: dict[str, Any] = {"schedule__kind": "wsd", "schedule__warmup_steps": 2, "schedule__decay_steps": 4}
LORA: dict[str, Any] = {"lora__rank": 4, "optimizer__learning_rate": 1e-2}
WAYS: dict[str, dict[str, Any]] = {
    "bf16": {"precision": "bf16"},
    "gradient checkpointing": {"model__gradient_checkpointing": True},
    "frozen layers": {"model__freeze": "*.layers.0.*"},
    "packing": {"batch__packing": True, "data__max_length": 64},
    "chunked loss": {"model__chunked_loss": True},
    "optimizer in host memory": {"strategy__offload_optimizer": True},
    "parameters in host memory": {"strategy__offload_parameters": True},
    "8-bit AdamW": {"optimizer__name": "adamw_8bit"},
    "Adafactor": {"optimizer__name": "adafactor", "optimizer__learning_rate": 1e-2},
    "Muon": {"optimizer__name": "muon", "optimizer__learning_rate": 1e-3},
    "warm-up, stable, decay": WSD | {"optimizer__learning_rate": 1e-3},
    "layer-wise rates": {"optimizer__layer_decay": 0.8},
    "average of the weights": {"ema__decay": 0.8},
    "noise on embeddings": {"model__embedding_noise": 1, "optimizer__learning_rate": 1e-2},
    "LoRA": LORA,
    "DoRA": LORA | {"lora__dora": True},
    "LoRA, base in bf16": LORA | {"precision": "bf16"},
    "QLoRA, 4 bits": LORA | {"quantization__bits": 4, "precision": "bf16"},
    "QLoRA, 8 bits": LORA | {"quantization__bits": 8, "precision": "bf16"},
}
TASKS: dict[str, dict[str, Any]] = {
    "`task: sequence-to-sequence`": {"task": "sequence-to-sequence", "data__max_target_length": 16},
    "`task: preference`": {"task": "preference", "data__max_length": 64},
    "`task: preference`, KTO": {"task": "preference", "data__max_length": 64, "preference__method": "kto"},
}
"""Tasks whose rows are of two texts."""
STEPS = 12


@pytest.mark.matrix
@pytest.mark.long
def test_the_table_of_what_goes_with_what_is_true(texts: Path, tmp_path: Path) -> None:
    """Each way trains: the loss falls, and a run that goes on from its checkpoint continues; or it is refused (64)."""
    llama = tiny.tiny_llama(tmp_path / "llama")
    t5 = tiny.tiny_t5(tmp_path / "t5", dropout=0.0)
    of_two = ((t5, labelled.first_words), (llama, labelled.answers), (llama, labelled.judged))
    ways = dict(WAYS)
    for number, ((way, task), (model, make)) in enumerate(zip(TASKS.items(), of_two, strict=True)):
        file = labelled.written(tmp_path / f"{number}.jsonl", 200, make)
        ways[way] = {"model__name": model, "data__files": file, "optimizer__learning_rate": 1e-3} | task
    table: dict[str, dict[str, str]] = {way: {} for way in ways}
    for kind in ("single", *STRATEGIES):
        cells, folder = [], tmp_path / kind
        folder.mkdir()
        for number, more in enumerate(ways.values()):
            options = {"task": "causal-lm", "strategy__kind": kind, "batch__micro_batches": 2} | more
            for steps in (STEPS - 2, STEPS):
                one = cell(llama, texts, folder / str(number), schedule__max_steps=steps, **options)
                cells.append(one | {"resume": True, "outcome": str(folder / f"{number}-{steps}.json")})
        launch(1 if kind == "single" else 2, cells, folder, timeout=570)
        for number, way in enumerate(ways):
            first, second = (
                json.loads((folder / f"{number}-{steps}.json").read_text()) for steps in (STEPS - 2, STEPS)
            )
            assert (first is None) == (second is None), (kind, way, first, second)
            table[way][kind] = "yes" if first is None else "refused"
            if first is None:
                found = losses(folder / str(number))
                assert len(found) == STEPS and sum(found[s] for s in (11, 12)) < sum(found[s] for s in (1, 2)), (
                    kind,
                    way,
                )
    lines = ["| | " + " | ".join(("single", *STRATEGIES)) + " |", "| --- |" + " --- |" * (1 + len(STRATEGIES))]
    lines += [f"| {way} | " + " | ".join(found.values()) + " |" for way, found in table.items()]
    made = BEGIN + "\n".join(lines) + "\n" + END
    text = DOCS.read_text()
    before, _, rest = text.partition(BEGIN)
    wanted = before + made + rest.partition(END)[2]
    if os.environ.get("WRITE"):
        DOCS.write_text(wanted)
    assert DOCS.read_text() == wanted, "docs/strategies.md says otherwise: WRITE=1 make test-matrix"
