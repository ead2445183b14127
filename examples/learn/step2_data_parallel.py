"""Step 2: nn.DataParallel, one process for all GPUs.

    python examples/learn/step2_data_parallel.py

In each step the process copies the model to every GPU, splits the batch over them and collects what comes out. One line
more than step 1, but the copies and the one process hold it up, so that PyTorch itself advises step 3 instead. Without
a GPU there is nothing to split over: DataParallel passes every call through to the model, and the line that is printed
says so.
"""

import time

import torch
from torch.utils.data import DataLoader

import lesson


def main() -> None:
    trained, held_out = lesson.tokens()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = torch.nn.DataParallel(lesson.model().to(device))
    optimizer = lesson.optimizer(model.parameters())
    batches = DataLoader(trained, lesson.STEP_TEXTS, sampler=lesson.shuffled(trained), collate_fn=lesson.collate)

    model.train()
    losses = []
    start = time.perf_counter()
    for batch in batches:
        loss = model(**{name: tensor.to(device) for name, tensor in batch.items()}).loss.mean()  # one of each GPU
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
    gpus = len(model.device_ids)
    note = f"the batch is split over {gpus} GPUs" if gpus else "no GPU: DataParallel passes through to the model"
    loss = sum(losses) / len(losses)
    lesson.tell("2 DataParallel", processes=1, seconds=seconds, loss=loss, scores=scores, note=note)


if __name__ == "__main__":
    main()
