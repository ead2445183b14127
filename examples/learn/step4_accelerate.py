"""Step 4: the same DDP by Accelerate.

    accelerate launch --config_file examples/accelerate/multi-gpu.yaml examples/learn/step4_accelerate.py

`prepare` wraps model, optimizer and data for whatever the process finds itself in: the same file also runs on one
process (`python FILE`), and step 6 hands nearly the same one to DeepSpeed. `gather_for_metrics` collects what the
processes predict, and drops the rows that were repeated to fill the last batch.
"""

import time

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

import lesson


def main() -> None:
    accelerator = Accelerator(cpu=not torch.cuda.is_available())  # else, without a GPU, each process trains alone
    trained, held_out = lesson.tokens()
    share = lesson.STEP_TEXTS // accelerator.num_processes
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
        scores = lesson.score(predictions, labels)
        lesson.tell("4 Accelerate", processes=accelerator.num_processes, seconds=seconds, loss=loss, scores=scores)
    accelerator.end_training()


if __name__ == "__main__":
    main()
