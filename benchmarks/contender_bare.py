"""A contender: the least PyTorch that trains on the batches of distrain's plan, made before the clock starts.

No data loading, no logging, no schedule, no checkpoint, one process.
"""

import argparse
import time
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification

from distrain_trainer.data.loader import Collator, StepBatch, StepDataset
from distrain_trainer.hardware.numerics import set_up_numerics
from distrain_trainer.hardware.threads import threads_for
from distrain_trainer.memory.model_shapes import sample_model
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.reader import read_settings
from distrain_trainer.training.planning import plan_of
from rows import LABELS, token_rows
from running import Steps


class BareLoop:
    """The sample model, its optimizer and what a step is."""

    def __init__(self, settings: Settings):
        torch.manual_seed(settings.seed)
        self.model = AutoModelForSequenceClassification.from_pretrained(
            sample_model(), num_labels=LABELS, dtype=torch.float32, ignore_mismatched_sizes=True
        )
        self.model.train()
        rate, decay = settings.optimizer.learning_rate, settings.optimizer.weight_decay
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=rate, weight_decay=decay, fused=True)
        self.max_grad_norm = settings.optimizer.max_grad_norm

    def step(self, batch: StepBatch) -> None:
        """Trains on the micro-batches of one step."""
        for micro_batch in batch.micro_batches:
            inputs = {name: tensor for name, tensor in micro_batch.items() if name != "labels"}
            logits = self.model(**inputs).logits
            loss = torch.nn.functional.cross_entropy(logits, micro_batch["labels"], reduction="sum") / batch.targets
            torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("settings", help="distrain's settings file")
    parser.add_argument("--result", type=Path, required=True, help="folder that the steps are written to")
    options = parser.parse_args()

    settings = read_settings(options.settings, {})
    tokenizer, data = token_rows(settings)
    dataset = StepDataset(plan_of(settings, data.train), Collator.of(settings, data.train, tokenizer), rank=0, world=1)
    batches = [dataset[number] for number in range(len(dataset))]
    set_up_numerics(threads_for(1), deterministic=False)
    bare = BareLoop(settings)

    steps = Steps()
    for batch in batches:
        bare.step(batch)
        steps.add(time.perf_counter(), batch.samples, batch.tokens, batch.padded_tokens)
    steps.write(options.result / "steps-0.json")


if __name__ == "__main__":
    main()
