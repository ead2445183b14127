"""Step 5: mixed precision and gradient accumulation by Accelerate.

    accelerate launch --config_file examples/accelerate/multi-gpu.yaml examples/learn/step5_mixed_precision.py

bf16 computes matrix products in 16 bits and keeps weights and optimizer in 32. Accumulation takes two small batches for
one step: each process holds four texts at once, and the effective batch is still 16. Under `accumulate`, Accelerate
divides the loss, and neither averages gradients nor steps before the last of them.
"""

import time

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

import lesson

ACCUMULATION = 2
"""Batches per step."""


def main() -> None:
    accelerator = Accelerator(
        mixed_precision="bf16", gradient_accumulation_steps=ACCUMULATION, cpu=not torch.cuda.is_available()
    )
    trained, held_out = lesson.tokens()
    share = lesson.STEP_TEXTS // accelerator.num_processes // ACCUMULATION
    batches = DataLoader(trained, share, sampler=lesson.shuffled(trained), collate_fn=lesson.collate)
    model = lesson.model()
    model, optimizer, batches, unseen = accelerator.prepare(
        model,
        lesson.optimizer(model.parameters()),
        batches,
        DataLoader(held_out, lesson.STEP_TEXTS, collate_fn=lesson.collate),
    )

    model.train()
    losses = torch.zeros((), device=accelerator.device)
    start = time.perf_counter()
    for batch in batches:
        with accelerator.accumulate(model):
            loss = model(**batch).loss
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        losses += loss.detach() / len(batches)
    loss = float(accelerator.reduce(losses, "mean"))
    seconds = time.perf_counter() - start

    model.eval()
    predictions: list[int] = []
    labels: list[int] = []
    with torch.no_grad():
        for batch in unseen:
            predicted = model(**batch).logits.argmax(-1)
            gathered = accelerator.gather_for_metrics((predicted, batch["labels"]))
            predictions += gathered[0].tolist()
            labels += gathered[1].tolist()
    if accelerator.is_main_process:
        step = f"5 {accelerator.mixed_precision}, accumulation"
        scores = lesson.score(predictions, labels)
        lesson.tell(step, processes=accelerator.num_processes, seconds=seconds, loss=loss, scores=scores)
    accelerator.end_training()


if __name__ == "__main__":
    main()
