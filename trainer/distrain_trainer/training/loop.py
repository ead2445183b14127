"""The training loop: a step reads as the algorithm."""

import math
import resource
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from distrain_trainer.data.loader import StepBatch
from distrain_trainer.errors import OutOfTime, Regrouping, Stopped, TrainingError, VolumeError, VolumeLost
from distrain_trainer.launch.cluster_environment import ClusterEnvironment
from distrain_trainer.launch.node import titled
from distrain_trainer.launch.signs import Section
from distrain_trainer.parallel import collectives
from distrain_trainer.parallel.schedule import learning_rate
from distrain_trainer.reporting.progress import evaluation_sentence
from distrain_trainer.storage.layout import published_checkpoints
from distrain_trainer.training.checkpoint.format import TrainingState
from distrain_trainer.training.evaluation import Evaluation, evaluate
from distrain_trainer.training.session import TrainingSession
from distrain_trainer.training.stragglers import Stopwatch, Stragglers


@dataclass(frozen=True)
class StepSync:
    """What all processes know after the one message that they exchange between two steps.

    loss: summed loss of the step that is done. targets: valid targets of the step to come, or the sum of their
    weights. stop: a process was asked to stop. checkpoint_due, out_of_time: by process 0's clock. regroup: a node is
    back, and is to take part from the next checkpoint on. written: all parts of the checkpoint in flight are on disk.
    paces: seconds per token of each process's forward passes in the step that is done, by rank; 0 where it had none.
    """

    loss: float
    targets: float
    stop: bool
    checkpoint_due: bool
    out_of_time: bool
    regroup: bool
    written: bool
    paces: list[float]


def train(session: TrainingSession) -> None:
    """Trains from `state.step` to the plan's last step, evaluating and saving on the way. On all processes.

    Raises Stopped and OutOfTime, after a checkpoint; TrainingError without one.
    """
    settings, state, parallel = session.settings, session.state, session.parallel
    session.stop.defer()
    session.signs.give(Section.FIRST_STEP, state.step)
    session.saved_step, session.saved_at = state.step, time.monotonic()
    first = state.step == 0 and settings.evaluation.at_start and session.evaluation_plan is not None
    if (first or evaluation_due(session)) and not run_evaluation(session):
        leave(session, Stopped)

    stopwatch, stragglers = Stopwatch(parallel.device), Stragglers(machines(session))
    batch, data_seconds = fetch(session)
    sync = synchronize(session, torch.zeros(()), batch, stopwatch)
    while state.step < session.plan.steps and not out_of_patience(session):
        assert batch is not None
        if sync.stop or sync.out_of_time:
            leave(session, Stopped if sync.stop else OutOfTime)
        started = time.monotonic()
        rate = learning_rate(settings.schedule, settings.optimizer.learning_rate, state.step, session.plan.steps)
        targets = sync.targets or 1.0
        loss_sum = torch.zeros((), dtype=torch.float64, device=parallel.device)
        last = len(batch.micro_batches) - 1
        for position, micro_batch in enumerate(batch.micro_batches):
            with parallel.accumulate(last=position == last):
                seed_dropout(settings.seed, batch.epoch, state.step, batch.indices[position])
                with stopwatch.forward(tokens_of(batch, position)):
                    loss, _ = parallel.forward(micro_batch)
                parallel.backward(loss * (session.process.world / targets))
            loss_sum += loss.detach()
        grad_norm = parallel.step(learning_rate=rate)
        state.step += 1
        session.signs.give(Section.DATA, state.step)

        done, waited = batch, data_seconds
        batch, data_seconds = fetch(session)
        computed = time.monotonic()
        session.signs.give(Section.STEP, state.step)
        sync = synchronize(session, loss_sum, batch, stopwatch)
        now = time.monotonic()
        straggler = stragglers.see(sync.paces)
        count(state, done, sync.loss, targets, seconds=now - started)
        session.record(
            {
                "step": state.step,
                "epoch": round(session.plan.epochs_done(state.step), 4),
                "loss": sync.loss / targets,
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
                **session.efficiency.step(done.tokens, done.forward_only, done.texts, now - started),
                "straggler": straggler.data if straggler else None,
                "nodes": session.process.nodes_here,
            }
        )
        if straggler and stragglers.is_news(straggler):
            session.record({"step": state.step, "event": "straggler", "message": straggler.sentence})
        watch_finiteness(session, grad_norm)
        if session.plan.ends_epoch(state.step):
            close_epoch(session)
        if evaluation_due(session) and not run_evaluation(session):
            leave(session, Stopped)
        if sync.written:
            publish(session)
        if checkpoint_due(session, sync):
            save(session)
            if sync.regroup and state.step < session.plan.steps:
                regroup(session)
    finish(session)


def seed_dropout(seed: int, epoch: int, step: int, index: int) -> None:
    """Seeds the device's generator for one micro-batch, so that dropout is the same on whichever process it runs.

    index: the micro-batch's number within the epoch, -1 for an empty one.
    """
    words = np.random.SeedSequence([seed, epoch, step, index + 1]).generate_state(2, np.uint32)
    torch.manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)


def fetch(session: TrainingSession) -> tuple[StepBatch | None, float]:
    """This process's share of the next step, None after the last; and the seconds spent waiting for it."""
    started = time.monotonic()
    return next(session.batches, None), time.monotonic() - started


def tokens_of(batch: StepBatch, position: int) -> int:
    """Tokens of a micro-batch, padding included; 0 of an empty one."""
    return batch.micro_batches[position]["input_ids"].numel() if batch.indices[position] >= 0 else 0


def machines(session: TrainingSession) -> list[str]:
    """What each process's machine is called, by rank. On all processes."""
    process = session.process
    return collectives.gather(titled(process.node, ClusterEnvironment.read().node_name or ""))


def synchronize(
    session: TrainingSession, loss_sum: torch.Tensor, batch: StepBatch | None, stopwatch: Stopwatch
) -> StepSync:
    """The one message between two steps, an all-reduce. On all processes.

    stopwatch: of this process's forward passes.
    """
    loss_value, paces = float(loss_sum), [0.0] * session.process.world  # the first waits for the device
    paces[session.process.rank] = stopwatch.pace()
    minutes, hours = session.settings.checkpoint.every_minutes, session.settings.max_hours
    first, now = session.process.is_main, time.monotonic()
    sums = collectives.total(
        [
            loss_value,
            batch.targets if batch else 0,
            session.stop.asked,
            first and minutes is not None and now - session.saved_at >= minutes * 60,
            first and hours is not None and session.state.seconds >= hours * 3600,
            first and session.signs.regroup,
            session.checkpoints.written,
            *paces,
        ]
    )
    loss, targets, stop, due, out_of_time, regroup, written, *paces = sums
    all_written = written == session.process.world
    return StepSync(loss, targets, stop > 0, due > 0, out_of_time > 0, regroup > 0, all_written, paces)


def count(state: TrainingState, done: StepBatch, loss: float, targets: float, seconds: float) -> None:
    """Adds a step to the run's totals."""
    state.tokens += done.tokens
    state.padded_tokens += done.padded_tokens
    state.samples += done.samples
    state.seconds += seconds
    state.epoch_loss += loss
    state.epoch_targets += targets


def watch_finiteness(session: TrainingSession, grad_norm: float) -> None:
    """Says that a step was skipped. Raises TrainingError, without a checkpoint, if too many were skipped in a row."""
    state, limit = session.state, session.settings.optimizer.nonfinite_limit
    if math.isfinite(grad_norm):
        state.skipped = 0
        return
    state.skipped += 1
    session.record({"step": state.step, "event": "nonfinite", "message": "the gradient is not finite; step skipped"})
    if state.skipped > limit:
        raise TrainingError(
            f"the gradient was not finite in {state.skipped} steps in a row, up to step {state.step} "
            f"(optimizer.nonfinite_limit is {limit}); lower optimizer.learning_rate, or look at the data of that step"
        )


def close_epoch(session: TrainingSession) -> None:
    """Says the average loss of the epoch that ends here, and starts the next sum."""
    state = session.state
    average = state.epoch_loss / (state.epoch_targets or 1.0)
    epochs = session.plan.epochs_done(state.step)
    session.say(f"epoch {epochs:.3g} done at step {state.step}: average loss {average:.4f}")
    state.epoch_loss = state.epoch_targets = 0.0


# Evaluation


def evaluation_due(session: TrainingSession) -> bool:
    """Whether the model is to be evaluated now, after `state.step` steps."""
    step, every = session.state.step, session.settings.evaluation.every_steps
    if session.evaluation_plan is None or step in (0, session.state.evaluated_step):
        return False
    return step == session.plan.steps or (step % every == 0 if every else session.plan.ends_epoch(step))


def run_evaluation(session: TrainingSession) -> bool:
    """Evaluates, records, and updates the best; False if a process was asked to stop before the end."""
    state, settings = session.state, session.settings.evaluation
    found = evaluate_now(session)
    if found is None:
        return False
    assert settings.metric is not None
    state.evaluated_step = state.step
    values = {f"eval_{name}": value for name, value in found.metrics.items()}
    line = {"step": state.step, "epoch": round(session.plan.epochs_done(state.step), 4)} | values
    session.record(line)
    value = found.metrics.get(settings.metric, math.nan) if state.step else math.nan  # untrained, it is no best
    is_best = better(value, state.best, settings.greater_is_better)
    session.say(evaluation_sentence(line, session.headline, settings.metric if is_best else None))
    if is_best:
        state.best, state.misses = {"metric": settings.metric, "value": value, "step": state.step}, 0
    elif state.step:
        state.misses += 1
    return True


def evaluate_now(session: TrainingSession) -> Evaluation | None:
    """Evaluates the current model; None if a process was asked to stop before the end."""
    assert session.evaluation_plan is not None and session.evaluation_collator is not None
    module = session.parallel.module
    module.eval()

    def stopping() -> bool:
        session.signs.give(Section.EVALUATION, session.state.step)
        return session.stop.asked

    with session.parallel.average.in_use():
        session.evaluation = evaluate(
            session.parallel.forward,
            session.evaluation_plan,
            session.evaluation_collator,
            session.process,
            session.label_names,
            stopping,
            session.watch,
            session.resolved.further,
            session.say,
            session.writing,
            session.settings.preference,
        )
    module.train()
    session.signs.give(Section.STEP, session.state.step)
    return session.evaluation


def better(value: float, best: dict[str, Any] | None, greater: bool | None) -> bool:
    """Whether a metric's value beats the best so far; a non-finite one never does."""
    if not math.isfinite(value):
        return False
    return best is None or (value > best["value"] if greater else value < best["value"])


def out_of_patience(session: TrainingSession) -> bool:
    """Whether `evaluation.patience` is used up; says so."""
    patience = session.settings.evaluation.patience
    if not patience or session.state.misses < patience:
        return False
    best, metric = session.state.best, session.settings.evaluation.metric
    since = f" than {best['value']:.4f} at step {best['step']}" if best else ""
    text = f"stopping early: no better {metric}{since} in {patience} evaluations (evaluation.patience)"
    session.record({"step": session.state.step, "event": "early_stop", "message": text})
    return True


# Saving


def checkpoint_due(session: TrainingSession, sync: StepSync) -> bool:
    """Whether a checkpoint is to be written now: by steps, by the clock, because this is the best model so far, or for
    a node that is back and would wait for ever."""
    step, every = session.state.step, session.settings.checkpoint.every_steps
    is_best = session.state.best is not None and session.state.best["step"] == step
    unplanned = sync.regroup and every is None and session.settings.checkpoint.every_minutes is None
    return sync.checkpoint_due or is_best or unplanned or (every is not None and step % every == 0)


def save(session: TrainingSession) -> None:
    """Writes a checkpoint, in the background if the settings say so."""
    session.saved_at = time.monotonic()
    session.signs.give(Section.CHECKPOINT, session.state.step)
    scaler = session.parallel.loss_scaler
    session.state.loss_scale = scaler.state_dict() if scaler is not None else None
    session.checkpoints.begin(session.state)
    if not session.settings.checkpoint.background:
        publish(session)
        warn_of_grace(session, time.monotonic() - session.saved_at)
    session.signs.give(Section.STEP, session.state.step)


def warn_of_grace(session: TrainingSession, seconds: float) -> None:
    """Warns that a checkpoint takes too long for a pod that is asked to stop. seconds: that one took.

    It is compared with what the cluster gives between SIGTERM and SIGKILL.
    """
    grace = ClusterEnvironment.read().grace_seconds or math.inf
    if seconds > grace / 2:
        session.say(
            f"the checkpoint took {seconds:.0f} s, over half of the {grace:.0f} s that a pod gets to stop; raise "
            "gracePeriodSeconds of the chart (SageMaker's 120 s are fixed)"
        )


def publish(session: TrainingSession) -> None:
    """Publishes the checkpoint in flight and records it."""
    session.signs.give(Section.CHECKPOINT, session.state.step)
    step = session.checkpoints.finish()
    if step is not None:
        session.saved_step = step
        session.record({"step": step, "event": "checkpoint"})
        session.push_best()
    session.signs.give(Section.STEP, session.state.step)


def settle(session: TrainingSession) -> bool:
    """Makes sure that a checkpoint of the current step is published; False if it could not be written."""
    if session.checkpoints.in_flight:
        publish(session)
    if session.saved_step != session.state.step:
        save(session)
    if session.checkpoints.in_flight:
        publish(session)
    return session.saved_step == session.state.step


def leave(session: TrainingSession, reason: type[Stopped] | type[OutOfTime]) -> None:
    """Ends the session before the run is finished, after a checkpoint, by raising `reason`."""
    state = session.state
    kept = f"checkpoint-{state.step} is written" if settle(session) else "its checkpoint could NOT be written"
    why = "stopped" if reason is Stopped else f"max_hours ({session.settings.max_hours:g}) reached"
    by_cluster = ClusterEnvironment.read().node_name is not None
    how = "" if by_cluster else "; --resume continues from the newest checkpoint"
    text = f"{why} at step {state.step} of {session.plan.steps}; {kept}{how}"
    stopped = "preempted" if by_cluster else "interrupted"
    session.record({"step": state.step, "event": stopped if reason is Stopped else "out_of_time"})
    raise reason(text)


def regroup(session: TrainingSession) -> None:
    """Ends the session behind a checkpoint of this step, so that a node that is back takes part in the next one.

    Where the checkpoint cannot be written it goes on. Raises Regrouping.
    """
    if not settle(session):
        return
    step = session.state.step
    session.record({"step": step, "event": "regroup"})
    raise Regrouping(
        f"a node is back, and takes part from step {step} of {session.plan.steps} on; checkpoint-{step} is written"
    )


def finish(session: TrainingSession) -> None:
    """Writes the last checkpoint, and evaluates for the report if this session has not yet. Raises VolumeError,
    VolumeLost.

    On a full disk older checkpoints make room, and where there is none the model alone is written, which is the result.
    """
    if session.evaluation_plan is not None and session.evaluation is None:
        evaluate_now(session)
    main, checkpoints = session.process.is_main, session.checkpoints
    while not (settled := settle(session)):
        if not checkpoints.disk_full or not collectives.from_main(main and checkpoints.retention.make_room()):
            break
    if settled:
        session.signs.give(Section.END, session.state.step)
        return
    checkpoints.begin(session.state, whole=False)
    session.model_alone = checkpoints.finish() is not None
    if not session.model_alone:
        sentence = (
            "training is done but neither its last checkpoint nor its model could be written to "
            f"{session.resolved.folder}; make room there"
        )
        if published_checkpoints(session.resolved.folder):
            raise VolumeLost(f"{sentence}, and the run goes on from its last checkpoint")
        raise VolumeError(f"{sentence} and start again")
    session.say("the disk has no room for the last checkpoint: the model alone was written")
    session.signs.give(Section.END, session.state.step)


def memory_bytes(device: torch.device) -> int:
    """Peak memory of this process in bytes: of the GPU if there is one, else of the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
