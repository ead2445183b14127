"""Step 1: a bare PyTorch loop on one process.

    python examples/learn/step1_bare_loop.py

Everything else on this path does what this loop does: forward, backward, step.
"""

import time

import torch
from torch.utils.data import DataLoader

import lesson


def main() -> None:
    trained, held_out = lesson.tokens()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = lesson.model().to(device)
    optimizer = lesson.optimizer(model.parameters())
    batches = DataLoader(trained, lesson.STEP_TEXTS, sampler=lesson.shuffled(trained), collate_fn=lesson.collate)

    model.train()
    losses = []
    start = time.perf_counter()
    for batch in batches:
        loss = model(**{name: tensor.to(device) for name, tensor in batch.items()}).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    seconds = time.perf_counter() - start

    model.eval()
    predictions: list[int] = []
    with torch.no_grad():
        for batch in DataLoader(held_out, lesson.STEP_TEXTS, collate_fn=lesson.collate):
            logits = model(**{name: tensor.to(device) for name, tensor in batch.items()}).logits
            predictions += logits.argmax(-1).tolist()
    scores = lesson.score(predictions, held_out.labels)
    lesson.tell("1 bare loop", processes=1, seconds=seconds, loss=sum(losses) / len(losses), scores=scores)


if __name__ == "__main__":
    main()
