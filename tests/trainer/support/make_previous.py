"""Makes the folder of a run of version 0.1.0, which today's version must resume: `make_previous.py` writes `previous/`.

The commit is the last one of 0.1.0's day in CHANGELOG.md; the run is made by its code, with the packages of today.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from transformers import BertConfig, BertForSequenceClassification

import runs
import tiny

COMMIT = "66ecfff"
ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent / "previous"
SETTINGS = """\
task: sequence-classification
model: {name: model}
data: {files: texts.jsonl, evaluation_fraction: 0.25, max_length: 32}
batch: {tokens: 64, samples: null, micro_batches: 2}
optimizer: {learning_rate: 1.0e-2}
schedule: {kind: constant, warmup_fraction: 0, max_steps: 4}
checkpoint: {every_steps: 2, keep: 2}
evaluation: {every_steps: 2}
output_dir: out
"""
UNUSED = ("report.html", "checkpoint-2")
"""What a run leaves that nothing reads again."""


def main() -> None:
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()
    tokenizer = tiny.wordpiece(60)
    tokenizer.save_pretrained(HERE / "model")
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        pad_token_id=tokenizer.pad_token_id,
    )
    BertForSequenceClassification(config).save_pretrained(HERE / "model")
    runs.write_texts(HERE / "texts.jsonl", 40)
    (HERE / "run.yaml").write_text(SETTINGS)
    with tempfile.TemporaryDirectory() as scratch:
        code = subprocess.run(["git", "archive", COMMIT, "trainer"], cwd=ROOT, stdout=subprocess.PIPE, check=True)
        subprocess.run(["tar", "-x", "-C", scratch], input=code.stdout, check=True)
        environment = os.environ | {
            "PYTHONPATH": f"{scratch}/trainer",
            "HF_HUB_OFFLINE": "1",
            "XDG_CACHE_HOME": f"{scratch}/cache",
        }
        command = [sys.executable, "-m", "distrain_trainer.cli", "train", "run.yaml", "--processes", "1"]
        subprocess.run(command, cwd=HERE, env=environment, check=True)
    for name in UNUSED:
        (shutil.rmtree if (HERE / "out" / name).is_dir() else os.unlink)(HERE / "out" / name)


if __name__ == "__main__":
    main()
