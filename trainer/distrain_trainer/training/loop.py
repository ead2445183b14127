"""The training loop: a step reads as the algorithm."""

import math
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from distrain_trainer.data.loader import Collator, StepBatch
from distrain_trainer.data.plan import MicroBatches, Plan
from distrain_trainer.errors import OutOfTime, Stopped, TrainingError, VolumeError
from distrain_trainer.launch.cluster_environment import ClusterEnvironment
from distrain_trainer.parallel import collectives
from distrain_trainer.parallel.api import Parallel
from distrain_trainer.parallel.collectives import ProcessRank
from distrain_trainer.parallel.optimizer import learning_rate
from distrain_trainer.settings.model import Settings
from distrain_trainer.training.checkpoint import Checkpoints, State
from distrain_trainer.training.evaluation import Evaluation, evaluate
from distrain_trainer.training.stop import StopRequest


@dataclass
class Run:
    """What the loop works with, and the little that it remembers between steps.

    batches: this process's share of the steps, from `state.step` on. evaluation_plan: None where nothing is
    evaluated. classes: 0 for language models. record: takes each line of metrics.jsonl. say: tells the person a
    sentence. watch: how far an evaluation is. (The last three do nothing but on process 0.)
    """

    settings: Settings
    process: ProcessRank
    plan: Plan
    batches: Iterator[StepBatch]
    parallel: Parallel
    checkpoints: Checkpoints
    state: State
    stop: StopRequest
    evaluation_plan: MicroBatches | None
    evaluation_collator: Collator | None
    classes: int
    record: Callable[[dict[str, Any]], None]
    say: Callable[[str], None]
    watch: Callable[[int, int], None]
    evaluation: Evaluation | None = None
    saved_step: int = -1
    saved_at: float = 0.0


@dataclass(frozen=True)
class Agreed:
    """What all processes know after the one message that they exchange between two steps.

    loss: summed loss of the step that is done. targets: valid targets of the step that comes. stop: some process was
    asked to stop. checkpoint_due, out_of_time: by process 0's clock. written: a checkpoint in flight is on disk.
    """

    loss: float
    targets: float
    stop: bool
    checkpoint_due: bool
    out_of_time: bool
    written: bool


def train(run: Run) -> None:
    """Trains from `run.state.step` to the plan's last step, evaluating and saving on the way. On every process.

    Raises Stopped and OutOfTime, after a checkpoint; TrainingError without one.
    """
    settings, state, parallel = run.settings, run.state, run.parallel
    run.stop.defer()
    run.saved_step, run.saved_at = state.step, time.monotonic()
    if evaluation_due(run) and not run_evaluation(run):
        leave(run, Stopped)

    batch, data_seconds = fetch(run)
    agreed = agree(run, torch.zeros(()), batch)
    while state.step < run.plan.steps and not out_of_patience(run):
        assert batch is not None
        if agreed.stop or agreed.out_of_time:
            leave(run, Stopped if agreed.stop else OutOfTime)
        started = time.monotonic()
        rate = learning_rate(settings.schedule, settings.optimizer.learning_rate, state.step, run.plan.steps)
        targets = max(agreed.targets, 1.0)
        loss_sum = torch.zeros((), dtype=torch.float64, device=parallel.device)
        last = len(batch.micro_batches) - 1
        for position, micro_batch in enumerate(batch.micro_batches):
            with parallel.accumulate(last=position == last):
                seed_dropout(settings.seed, batch.epoch, state.step, batch.indices[position])
                loss, _ = parallel.forward(micro_batch)
                parallel.backward(loss * (run.process.world / targets))
            loss_sum += loss.detach()
        grad_norm = parallel.step(learning_rate=rate)
        state.step += 1

        done, waited = batch, data_seconds
        batch, data_seconds = fetch(run)
        computed = time.monotonic()
        agreed = agree(run, loss_sum, batch)
        now = time.monotonic()
        count(state, done, agreed.loss, targets, seconds=now - started)
        run.record(
            {
                "step": state.step,
                "epoch": round(run.plan.epochs_done(state.step), 4),
                "loss": agreed.loss / targets,
                "learning_rate": rate,
                "grad_norm": grad_norm,
                "samples": done.samples,
                "tokens": done.tokens,
                "tokens_per_second": done.tokens / (now - started),
                "padding_fraction": 1 - done.tokens / done.padded_tokens,
                "step_seconds": now - started,
                "data_seconds": waited,
                "sync_seconds": now - computed,
                "memory_bytes": memory_bytes(parallel.device),
                "gpu_utilization": None,
                "mfu": None,
            }
        )
        watch_finiteness(run, grad_norm)
        if run.plan.ends_epoch(state.step):
            close_epoch(run)
        if evaluation_due(run) and not run_evaluation(run):
            leave(run, Stopped)
        if agreed.written:
            publish(run)
        if checkpoint_due(run, agreed):
            save(run)
    finish(run)


def seed_dropout(seed: int, epoch: int, step: int, index: int) -> None:
    """Seeds the device's generator for one micro-batch, so that dropout is the same wherever it is computed.

    index: the micro-batch's number within the epoch, -1 for an empty one.
    """
    words = np.random.SeedSequence([seed, epoch, step, index + 1]).generate_state(2, np.uint32)
    torch.manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)


def fetch(run: Run) -> tuple[StepBatch | None, float]:
    """The next step's share, None after the last; and the seconds it was waited for."""
    started = time.monotonic()
    return next(run.batches, None), time.monotonic() - started


def agree(run: Run, loss_sum: torch.Tensor, batch: StepBatch | None) -> Agreed:
    """The one message between two steps. On every process."""
    minutes, hours = run.settings.checkpoint.every_minutes, run.settings.max_hours
    first, now = run.process.is_main, time.monotonic()
    sums = collectives.total(
        [
            float(loss_sum),
            batch.targets if batch else 0,
            run.stop.asked,
            first and minutes is not None and now - run.saved_at >= minutes * 60,
            first and hours is not None and run.state.seconds >= hours * 3600,
            run.checkpoints.written,
        ]
    )
    loss, targets, stop, due, out_of_time, written = sums
    return Agreed(loss, targets, stop > 0, due > 0, out_of_time > 0, written == run.process.world)


def count(state: State, done: StepBatch, loss: float, targets: float, seconds: float) -> None:
    """Adds a step to the run's totals."""
    state.tokens += done.tokens
    state.padded_tokens += done.padded_tokens
    state.samples += done.samples
    state.seconds += seconds
    state.epoch_loss += loss
    state.epoch_targets += targets


def watch_finiteness(run: Run, grad_norm: float) -> None:
    """Says that a step was skipped; ends the run, without a checkpoint, where too many were in a row."""
    state, limit = run.state, run.settings.optimizer.nonfinite_limit
    if math.isfinite(grad_norm):
        state.skipped = 0
        return
    state.skipped += 1
    run.record({"step": state.step, "event": "nonfinite", "message": "the gradient is not finite; step skipped"})
    if state.skipped > limit:
        raise TrainingError(
            f"the gradient was not finite in {state.skipped} steps in a row, up to step {state.step} "
            f"(optimizer.nonfinite_limit is {limit}); lower optimizer.learning_rate, or look at the data of that step"
        )


def close_epoch(run: Run) -> None:
    """Says the epoch's average loss."""
    state = run.state
    average = state.epoch_loss / max(state.epoch_targets, 1)
    run.say(f"epoch {run.plan.epochs_done(state.step):.3g} done at step {state.step}: average loss {average:.4f}")
    state.epoch_loss = state.epoch_targets = 0.0


# Evaluation


def evaluation_due(run: Run) -> bool:
    """Whether the model is to be evaluated as it stands after `state.step` steps."""
    step, every = run.state.step, run.settings.evaluation.every_steps
    if run.evaluation_plan is None or step in (0, run.state.evaluated_step):
        return False
    return step == run.plan.steps or (step % every == 0 if every else run.plan.ends_epoch(step))


def run_evaluation(run: Run) -> bool:
    """Evaluates, records, and chooses the best; False where a process was asked to stop meanwhile."""
    state, settings = run.state, run.settings.evaluation
    found = evaluate_now(run)
    if found is None:
        return False
    assert settings.metric is not None
    state.evaluated_step = state.step
    values = {f"eval_{name}": value for name, value in found.metrics.items()}
    run.record({"step": state.step, "epoch": round(run.plan.epochs_done(state.step), 4)} | values)
    value = found.metrics[settings.metric]
    if better(value, state.best, settings.greater_is_better):
        state.best, state.misses = {"metric": settings.metric, "value": value, "step": state.step}, 0
    else:
        state.misses += 1
    return True


def evaluate_now(run: Run) -> Evaluation | None:
    """Evaluates the model as it stands."""
    assert run.evaluation_plan is not None and run.evaluation_collator is not None
    module = run.parallel.module
    module.eval()
    args = (run.evaluation_plan, run.evaluation_collator, run.process, run.classes)
    run.evaluation = evaluate(run.parallel.forward, *args, lambda: run.stop.asked, run.watch)
    module.train()
    return run.evaluation


def better(value: float, best: dict[str, Any] | None, greater: bool | None) -> bool:
    """Whether a metric's value beats the best so far; one that is not finite never does."""
    if not math.isfinite(value):
        return False
    return best is None or (value > best["value"] if greater else value < best["value"])


def out_of_patience(run: Run) -> bool:
    """Whether `evaluation.patience` is used up."""
    patience = run.settings.evaluation.patience
    if not patience or run.state.misses < patience:
        return False
    text = f"no better {run.settings.evaluation.metric} in {patience} evaluations; ending early"
    run.record({"step": run.state.step, "event": "early_stop", "message": text})
    return True


# Saving


def checkpoint_due(run: Run, agreed: Agreed) -> bool:
    """Whether a checkpoint is to be written now: by steps, by the clock, or because this is the best model so far."""
    step, every = run.state.step, run.settings.checkpoint.every_steps
    is_best = run.state.best is not None and run.state.best["step"] == step
    return agreed.checkpoint_due or is_best or (every is not None and step % every == 0)


def save(run: Run) -> None:
    """Writes a checkpoint, in the background if that is asked for."""
    run.saved_at = time.monotonic()
    scaler = run.parallel.loss_scaler
    run.state.loss_scale = scaler.state_dict() if scaler is not None else None
    run.checkpoints.begin(run.state)
    if not run.settings.checkpoint.background:
        publish(run)
        warn_of_grace(run, time.monotonic() - run.saved_at)


def warn_of_grace(run: Run, seconds: float) -> None:
    """Says that a checkpoint takes too long for a pod that is asked to leave. seconds: what one has taken.

    It is compared with what the cluster gives between SIGTERM and SIGKILL.
    """
    grace = ClusterEnvironment.read().grace_seconds or math.inf
    if seconds > grace / 2:
        run.say(
            f"the checkpoint took {seconds:.0f} s, over half of the {grace:.0f} s that a pod has to leave; raise "
            "gracePeriodSeconds"
        )


def publish(run: Run) -> None:
    """Waits for the checkpoint in flight and records it."""
    step = run.checkpoints.finish()
    if step is not None:
        run.saved_step = step
        run.record({"step": step, "event": "checkpoint"})


def settle(run: Run) -> bool:
    """Makes the run durable as it stands; whether that went well."""
    if run.checkpoints.in_flight:
        publish(run)
    if run.saved_step != run.state.step:
        save(run)
    if run.checkpoints.in_flight:
        publish(run)
    return run.saved_step == run.state.step


def leave(run: Run, reason: type[Stopped] | type[OutOfTime]) -> None:
    """Leaves before the end, after a checkpoint."""
    state = run.state
    kept = f"checkpoint-{state.step} is written" if settle(run) else "its checkpoint could NOT be written"
    why = "stopped" if reason is Stopped else f"max_hours ({run.settings.max_hours:g}) reached"
    text = f"{why} at step {state.step} of {run.plan.steps}; {kept}; --resume goes on from the newest checkpoint"
    run.record({"step": state.step, "event": "preempted" if reason is Stopped else "out_of_time"})
    raise reason(text)


def finish(run: Run) -> None:
    """The last checkpoint, and what the report needs of the last evaluation."""
    if run.evaluation_plan is not None and run.evaluation is None:
        evaluate_now(run)
    if not settle(run):
        raise VolumeError(
            f"training is done but its last checkpoint could not be written to {run.settings.output_dir}; "
            "make room there and --resume"
        )


def memory_bytes(device: torch.device) -> int:
    """Most bytes that this process has had: on the GPU where there is one, else in memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
