"""One process of a training run, from settings to report. Reads from top to bottom."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from distrain_trainer.bars import progress
from distrain_trainer.console import say, warn
from distrain_trainer.data.loader import Collator, StepDataset, steps
from distrain_trainer.errors import DistrainError, ServiceAway, Stopped, is_retried
from distrain_trainer.hardware.efficiency import Efficiency
from distrain_trainer.hub.access import check_before_training
from distrain_trainer.launch.cluster_environment import ClusterEnvironment
from distrain_trainer.launch.node import titled
from distrain_trainer.launch.signs import Section, Signs
from distrain_trainer.memory.optimizer_state import state_bytes
from distrain_trainer.models.flops import flops_of
from distrain_trainer.models.load import load_model, parameter_counts, trained_shapes
from distrain_trainer.models.loss import SummedLoss
from distrain_trainer.parallel import collectives, connection
from distrain_trainer.parallel.api import freeze_unreached, parallelize, warm_up
from distrain_trainer.parallel.collectives import ProcessRank
from distrain_trainer.parallel.node_check import check_nodes
from distrain_trainer.reporting.trackers.sender import send_to_trackers
from distrain_trainer.settings.model import Settings
from distrain_trainer.storage.attempts import begin_attempt
from distrain_trainer.storage.run_folder import check_writable, claim, finished_steps, read_claim
from distrain_trainer.tasks.table import TASKS
from distrain_trainer.training import reference, results
from distrain_trainer.training.best_push import pushing_best
from distrain_trainer.training.checkpoint.format import TrainingState
from distrain_trainer.training.checkpoint.reader import restore
from distrain_trainer.training.checkpoint.retention import Retention
from distrain_trainer.training.checkpoint.writer import CheckpointWriter
from distrain_trainer.training.checks import check_same_start, tell_endless
from distrain_trainer.training.loop import train
from distrain_trainer.training.opening import open_folder
from distrain_trainer.training.probes import check_causal, check_packing, choose_loss, choose_mask, tell_router_loss
from distrain_trainer.training.resolve import ResolvedRun, resolve, with_common_tokens
from distrain_trainer.training.session import TrainingSession, journal
from distrain_trainer.training.stop import StopRequest


def run(
    asked: Settings,
    resume: bool,
    attempt: int | None = None,
    previous: str | None = None,
    signs: Signs | None = None,
    check: bool = False,
) -> TrainingSession | None:
    """Trains as one of the processes that the environment describes; None if the run was finished before.

    resume: whether a run in the output folder is continued. attempt: its number, if a supervisor has begun it.
    previous: what the run in the folder is called from when this one, which replaces it, begins to write; None where
    none is replaced. signs: of life, None where no supervisor looks at them. check: whether all processes check their
    machines first. Raises DistrainError, StopNow.
    """
    stop = StopRequest()
    process = ProcessRank.from_environment()
    tell: Callable[[str], None] = say if process.is_main else lambda text: None

    # Everything is decided before a process waits for another. Their number only says who does what.
    claims = attempt is None and process.local_rank == 0  # our own launcher has claimed the folder, others do not
    if claims and not process.is_main:
        check_writable(Path(asked.output_dir))
    replaces = previous is not None
    claimed = claim(asked, resume, replaces) if claims and process.is_main else read_claim(asked, resume, replaces)
    begun = claimed.stored is not None
    if claims and process.is_main and claimed.settings.hub.repo is not None:
        check_before_training(claimed.settings.hub, begun)
    with waiting_for_services(begun):
        resolved = resolve(asked, claimed, process, tell)
    folder = resolved.folder
    if not replaces and finished_steps(folder) == resolved.plan.steps:
        tell(f"the run in {folder} is finished; raise schedule.epochs to train on")
        return None
    resolved.tell_plan(tell)
    accelerator = connect(resolved, tell)
    if check:
        title = titled(process.node, ClusterEnvironment.read().node_name or "")
        check_nodes(process, accelerator.device, title, warn if process.is_main else lambda text: None)
    resolved = with_common_tokens(resolved, tell)
    settings, data, tokenizer = resolved.settings, resolved.data, resolved.tokenizer
    attempt = collectives.from_main(attempt or (begin_attempt(folder).attempt if process.is_main else 0))

    # The model, the same on all processes.
    with waiting_for_services(begun), progress("reading the model", shown=process.is_main):
        model = load_model(settings, resolved.model_name, resolved.model_revision, tokenizer, data.label_names)
    collator = Collator.of(settings, data.train, tokenizer, resolved.packing, resolved.weights)
    tell_endless(settings, model, tokenizer, data.train, tell)
    module = SummedLoss(
        model,
        settings.precision,
        TASKS[settings.task],
        resolved.weights,
        settings.loss.label_smoothing,
        whole=resolved.further.take_scores,
        preference=settings.preference if settings.facts.compares else None,
    )
    freeze_unreached(module, collator.empty())
    tell_router_loss(settings, module, tell)
    check_same_start(settings, resolved.plan, data, model.parameters())
    parameters = parameter_counts(model)
    state_size = state_bytes(settings, trained_shapes(model))
    tell(f"{settings.model.name}: {parameters['trainable']:,} of {parameters['all']:,} parameters are trained")
    efficiency = Efficiency.of(flops_of(model), accelerator.device, settings.precision, process.world, process.is_main)
    parallel = parallelize(settings, accelerator, module, process.world)
    check_causal(settings, module, parallel.module, collator)
    check_packing(settings, module, parallel.module, collator)
    choose_mask(settings, module, parallel.module, collator)
    choose_loss(settings, module, parallel.module, collator, tell)
    signs = signs or Signs(None)
    alive = partial(signs.give, Section.START)
    resolved = reference.with_reference(resolved, parallel, collator, alive, tell)
    collator = replace(collator, rows=resolved.data.train)
    warm_up(parallel, collator.empty())

    # Where an earlier attempt left the run.
    record = results.settings_record(resolved, parameters)
    retention = Retention(folder, attempt, settings.checkpoint.keep, tell)
    if process.is_main:
        open_folder(resolved, record, parameters, state_size, previous, retention, tell)
        reference.keep(resolved)
    state = restore(folder, process, data.fingerprint, parallel, retention, tell) or TrainingState()
    checkpoints = CheckpointWriter(
        folder=folder,
        process=process,
        attempt=attempt,
        fingerprint=data.fingerprint,
        background=settings.checkpoint.background,
        parallel=parallel,
        write_static=lambda target: results.write_model_files(target, model, tokenizer, record),
        retention=retention,
        say=tell,
    )

    # Training.
    tell(f"results go to {folder}")
    dataset = StepDataset(resolved.plan, collator, process.rank, process.world)
    batches = steps(dataset, state.step, settings.data.workers)
    tracks = process.is_main and bool(settings.tracking.trackers)
    with (
        journal(resolved, state.step, retention.fence) as (record_line, watch),
        pushing_best(folder, settings.hub, process, retention.fence, attempt) as push_best,
    ):
        session = TrainingSession(
            resolved,
            parallel,
            batches,
            checkpoints,
            state,
            stop,
            signs,
            efficiency,
            say=tell,
            record=record_line,
            watch=watch,
            push_best=push_best,
            sender=send_to_trackers(folder, attempt, state.step) if tracks else None,
        )
        record_line(opening_line(state.step, attempt, process))
        push_best()
        try:
            train(session)
        except DistrainError as error:
            results.conclude_early(session, error)
            if session.sender is not None:
                leaves = is_retried(error.exit_code) and not isinstance(error, Stopped)  # the next attempt goes on
                session.sender.leave() if leaves else session.sender.end(results.status_of(error))
            raise
        record_line({"step": state.step, "event": "end"})
    results.publish(session, record)
    return session


def opening_line(step: int, attempt: int, process: ProcessRank) -> dict[str, Any]:
    """The event with which a session begins: who takes part. On all processes."""
    absent = set(range(process.nodes)) - set(collectives.gather(process.node))
    line = {"step": step, "event": "resume" if step else "start", "attempt": attempt, "processes": process.world}
    return line | {"nodes": process.nodes_here, "absent": sorted(absent)}


@contextmanager
def waiting_for_services(begun: bool) -> Iterator[None]:
    """Has a Hub that cannot be reached end the attempt as a fault that passes (ServiceAway), once a run has begun:
    before, it is more likely the settings that are wrong."""
    try:
        yield
    except DistrainError as error:
        if begun and error.away:
            raise ServiceAway(str(error)) from error
        raise


def connect(resolved: ResolvedRun, tell: Callable[[str], None]) -> Accelerator:
    """Connects the processes. On all of them."""
    cuda, launched, world = torch.cuda.is_available(), "LOCAL_RANK" in os.environ, resolved.process.world
    if cuda and launched:
        torch.cuda.set_device(resolved.process.local_rank)
    connection.connect(resolved.process, ClusterEnvironment.read().node_name)
    accelerator = Accelerator(
        cpu=not cuda,
        mixed_precision="fp16" if resolved.settings.precision == "fp16" else "no",  # SummedLoss does the others
        kwargs_handlers=[
            InitProcessGroupKwargs(backend=collectives.backend() if launched else None, timeout=collectives.PATIENCE)
        ],
    )
    assert accelerator.num_processes == world, "Accelerate counts other processes than the launcher"
    torch.set_num_threads(resolved.threads)  # Accelerate has set a number of its own
    if world > 1:
        milliseconds = collectives.all_reduce_seconds(accelerator.device) * 1000
        tell(f"all-reduce over {world} processes: {milliseconds:.2f} ms")
    return accelerator
