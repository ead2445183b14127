"""Step 3: DistributedDataParallel, one process per GPU, started by torchrun.

    torchrun --standalone --nproc-per-node 2 examples/learn/step3_distributed.py

Each process holds the model and reads its own share of every batch. During backward, DDP averages the gradients over
the processes, so that all of them take the same step. Four things are new beside step 1: the process group, DDP around
the model, the DistributedSampler, and what has to be collected at the end.
"""

import os
import time

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, Subset

import lesson


def main() -> None:
    has_gpu = torch.cuda.is_available()
    dist.init_process_group("nccl" if has_gpu else "gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if has_gpu else torch.device("cpu")
    if has_gpu:
        torch.cuda.set_device(device)

    trained, held_out = lesson.tokens()
    model = DistributedDataParallel(lesson.model().to(device), device_ids=[device] if has_gpu else None)
    optimizer = lesson.optimizer(model.parameters())
    # Of the shuffled texts every world-th, from `rank` on.
    sampler: DistributedSampler[lesson.Text] = DistributedSampler(trained, shuffle=True, seed=lesson.SEED)
    batches = DataLoader(trained, lesson.STEP_TEXTS // world, sampler=sampler, collate_fn=lesson.collate)

    model.train()
    losses = torch.zeros((), device=device)
    start = time.perf_counter()
    for batch in batches:
        loss = model(**{name: tensor.to(device) for name, tensor in batch.items()}).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses += loss.detach() / len(batches)
    dist.all_reduce(losses)  # the sum over the processes
    seconds = time.perf_counter() - start

    model.eval()
    own: list[int] = []
    share = Subset(held_out, range(rank, len(held_out), world))
    with torch.no_grad():
        for batch in DataLoader(share, lesson.STEP_TEXTS, collate_fn=lesson.collate):
            logits = model(**{name: tensor.to(device) for name, tensor in batch.items()}).logits
            own += logits.argmax(-1).tolist()
    shares: list[list[int]] = [[] for _ in range(world)]
    dist.all_gather_object(shares, own)
    if rank == 0:
        predictions = [0] * len(held_out)
        for number, found in enumerate(shares):
            predictions[number::world] = found
        scores = lesson.score(predictions, held_out.labels)
        lesson.tell("3 DDP", processes=world, seconds=seconds, loss=float(losses) / world, scores=scores)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
