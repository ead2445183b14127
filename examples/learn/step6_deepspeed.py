"""Step 6: DeepSpeed's ZeRO by Accelerate. What changes is the file, and hardly the program.

    accelerate launch --config_file examples/learn/zero2.yaml examples/learn/step6_deepspeed.py
    accelerate launch --config_file examples/learn/zero3.yaml examples/learn/step6_deepspeed.py

Under DDP each process holds 16 bytes per parameter: weight, gradient and AdamW's two moments in fp32. ZeRO-2 leaves
each process the weights and a share of the rest; ZeRO-3 a share of everything, and gathers a layer when it is needed.
zero2.yaml is Accelerate's own form; zero3.yaml names DeepSpeed's JSON, zero3.json. Both turn off the clipping of
gradients, which Accelerate would otherwise have DeepSpeed do, unlike the other steps. DeepSpeed compiles a small part
when it is used for the first time, which needs g++ and ninja.
"""

import time

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from torch.utils.data import DataLoader

import lesson


def main() -> None:
    # Before Accelerator: behind it, ZeRO-3 would cut the model up while it is loaded, as a large one has to be, and its
    # new head would be another one than that of the other steps.
    model = lesson.model()
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    accelerator = Accelerator(kwargs_handlers=[InitProcessGroupKwargs(backend=backend)])
    assert accelerator.state.deepspeed_plugin is not None, "start this with a file that names DeepSpeed, as above"
    stage = accelerator.state.deepspeed_plugin.zero_stage
    trained, held_out = lesson.tokens()
    share = lesson.STEP_TEXTS // accelerator.num_processes
    batches = DataLoader(trained, share, sampler=lesson.shuffled(trained), collate_fn=lesson.collate)
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
        accelerator.backward(loss)  # DeepSpeed steps here too
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
        step, processes = f"6 DeepSpeed ZeRO-{stage}", accelerator.num_processes
        lesson.tell(step, processes=processes, seconds=seconds, loss=loss, scores=scores)
    accelerator.end_training()
    lesson.leave()


if __name__ == "__main__":
    main()
