"""One process of a training run, from settings to report. Reads from top to bottom."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from transformers.utils import is_flash_attn_2_available

from distrain_trainer.console import say
from distrain_trainer.data.chat import use_template
from distrain_trainer.data.loader import Collator, StepDataset, steps
from distrain_trainer.data.packing import Packing, packing_of
from distrain_trainer.data.plan import Plan
from distrain_trainer.data.sources import held_out
from distrain_trainer.data.tokens import Rows, Tokenized, prepare
from distrain_trainer.errors import DataError, DistrainError, OutOfTime, SettingsError, Stopped, TrainingError
from distrain_trainer.hardware.machine import device_memory
from distrain_trainer.hardware.numerics import set_up_numerics
from distrain_trainer.hardware.threads import threads_for
from distrain_trainer.inference.chat import answer_held_out, tell_endless
from distrain_trainer.memory.advice import read_model, size
from distrain_trainer.memory.estimate import auto_tokens, kind_of
from distrain_trainer.metrics.metrics import check_metric, default_metric, greater_is_better
from distrain_trainer.models.load import load_config, load_model, load_tokenizer, longest_row, parameter_counts, resolve
from distrain_trainer.models.lora import check_installed
from distrain_trainer.models.loss import SummedLoss
from distrain_trainer.parallel import collectives
from distrain_trainer.parallel.api import freeze_unreached, parallelize, warm_up
from distrain_trainer.parallel.collectives import ProcessRank
from distrain_trainer.reporting.progress import Progress
from distrain_trainer.settings.model import Settings, changed, flat
from distrain_trainer.storage.attempts import begin_attempt
from distrain_trainer.storage.files import write_json
from distrain_trainer.storage.metrics_log import MetricsLog
from distrain_trainer.storage.run_folder import Claim, claim
from distrain_trainer.training import results
from distrain_trainer.training.checkpoint import Checkpoints, State, tensors_digest
from distrain_trainer.training.evaluation import plan_evaluation
from distrain_trainer.training.loop import Run, train
from distrain_trainer.training.probes import check_packing, choose_loss, choose_mask, tell_router_loss
from distrain_trainer.training.stop import StopRequest


def run(asked: Settings, resume: bool, attempt: int | None = None) -> Run | None:
    """Trains as one of the processes that the environment describes; None where the run was finished before.

    resume: whether a run in the output folder is continued. attempt: its number, where a supervisor has begun it.
    Raises DistrainError.
    """
    stop = StopRequest()
    process = ProcessRank.from_environment()
    tell: Callable[[str], None] = say if process.is_main else lambda text: None
    threads = threads_for(process.local_world)

    # What is asked for, and what an earlier attempt has already decided.
    claimed = claim(asked, resume, overwrite=False)
    settings = claimed.settings
    check_device(settings, process.local_world)
    set_up_numerics(threads, settings.deterministic)

    # The tokenizer and the data, before any process waits for another.
    name, revision = resolve(settings.model)
    tokenizer = load_tokenizer(name, revision)
    settings = with_tokens(settings, process, tell)
    use_template(tokenizer, settings)
    max_length = longest_row(settings, load_config(name, revision), tokenizer)
    data = prepare(settings, tokenizer, max_length, tell)
    check_same_data(claimed, data)
    settings = decide(settings, revision, data, max_length, process.world)

    # The plan of all steps. From here on the number of processes only says who does what.
    packing = packing_of(settings, data.train, tell)
    plan = plan_of(settings, data.train, packing)
    if results.is_finished(claimed.folder, plan.steps):
        tell(f"the run in {claimed.folder} is finished; give it more schedule.epochs to train on")
        return None
    if process.is_main:
        tell(deal_sentence(plan, data.train, settings, process.world))

    # The processes meet.
    cuda, launched = torch.cuda.is_available(), "LOCAL_RANK" in os.environ
    accelerator = Accelerator(
        cpu=not cuda,
        mixed_precision="fp16" if settings.precision == "fp16" else "no",  # the rest is in SummedLoss
        kwargs_handlers=[
            InitProcessGroupKwargs(backend=collectives.backend() if launched else None, timeout=collectives.PATIENCE)
        ],
    )
    assert accelerator.num_processes == process.world, "Accelerate counts other processes than the launcher"
    torch.set_num_threads(threads)  # Accelerate has set a number of its own
    if process.world > 1:
        milliseconds = collectives.all_reduce_seconds(accelerator.device) * 1000
        tell(f"all-reduce over {process.world} processes: {milliseconds:.2f} ms")
    if claimed.settings.batch.tokens == "auto":
        settings = with_least_tokens(settings, collectives.gather(plan.tokens))
        if settings.batch.tokens != plan.tokens:
            plan = plan_of(settings, data.train, packing)
            if process.is_main:
                tell("another process has less memory: " + deal_sentence(plan, data.train, settings, process.world))
    attempt = collectives.from_main(attempt or (begin_attempt(claimed.folder).attempt if process.is_main else 0))

    # The model, the same on all of them.
    model = load_model(settings, name, revision, tokenizer, data.label_names)
    collator = Collator.of(settings, data.train, tokenizer, packing)
    tell_endless(settings, model, tokenizer, data.train, tell)
    module = SummedLoss(model, settings.precision)
    freeze_unreached(module, collator.empty())
    tell_router_loss(settings, module, tell)
    check_same_start(settings, plan, data, list(model.parameters()))
    parameters = parameter_counts(model)
    tell(f"{settings.model.name}: {parameters['trainable']:,} of {parameters['all']:,} parameters are trained")
    parallel = parallelize(settings, accelerator, module, process.world)
    check_packing(settings, module, parallel.module, collator)
    choose_mask(settings, module, parallel.module, collator)
    choose_loss(settings, module, parallel.module, collator, tell)
    warm_up(parallel, collator.empty())

    # Where the run was left, if it was.
    record = results.settings_record(claimed, asked, settings, data, plan, process, threads, parameters)
    checkpoints = Checkpoints(
        claimed.folder,
        process,
        attempt,
        data.fingerprint,
        settings.checkpoint.keep,
        settings.checkpoint.background,
        parallel,
        write_static=lambda folder: results.write_model_files(folder, model, tokenizer, record),
        say=tell,
    )
    if process.is_main:
        checkpoints.clean()
        tell_changes(claimed, record, tell)
        write_json(claimed.folder / "settings.json", record)
    state = checkpoints.restore() or State()
    if state.loss_scale and parallel.loss_scaler is not None:
        parallel.loss_scaler.load_state_dict(state.loss_scale)

    # Training.
    tell(f"results go to {claimed.folder}")
    with (
        Progress(plan.steps, state.step) if process.is_main else nullcontext() as progress,
        MetricsLog(claimed.folder / "metrics.jsonl") if process.is_main else nullcontext() as log,
    ):
        this = Run(
            settings=settings,
            process=process,
            plan=plan,
            batches=steps(StepDataset(plan, collator, process.rank, process.world), state.step, settings.data.workers),
            parallel=parallel,
            checkpoints=checkpoints,
            state=state,
            stop=stop,
            evaluation_plan=plan_evaluation(data.evaluation.lengths, settings) if data.evaluation else None,
            evaluation_collator=Collator.of(settings, data.evaluation, tokenizer) if data.evaluation else None,
            classes=len(data.label_names or ()),
            record=recorder(log, progress),
            say=tell,
            watch=progress.evaluating if progress else lambda done, of: None,
        )
        if log:
            log.cut_back(state.step)
        this.record({"step": state.step, "event": "resume" if state.step else "start", "attempt": attempt})
        try:
            train(this)
        except DistrainError as error:
            if process.is_main:
                results.conclude(this, record, STATUS.get(type(error), "failed"), str(error))
            raise
        this.record({"step": state.step, "event": "end"})
    if process.is_main:
        results.publish_final(claimed.folder, checkpoints, record, state)
        results.conclude(this, record, "finished", None)
    collectives.from_main(None)  # nobody leaves before the results are on disk

    # The run is finished, whatever happens now. The other processes do not wait for the answers.
    if process.is_main:
        answers = answer_held_out(settings, claimed.folder / "final", data.evaluation, tell)
        if answers:
            results.conclude(this, record, "finished", None, answers)
        for sentence in results.closing_sentences(claimed.folder, this):
            tell(sentence)
    return this


STATUS: dict[type[DistrainError], str] = {Stopped: "stopped", OutOfTime: "out_of_time"}


def check_device(settings: Settings, local_world: int = 1) -> None:
    """Refuses what this machine does not have, where Accelerate would take something else without a word.

    local_world: processes on this machine. RUN_GPUS_PER_NODE: GPUs that the cluster has promised.
    """
    cuda = torch.cuda.is_available()
    promised = int(os.environ.get("RUN_GPUS_PER_NODE", 0))
    if promised and not cuda:
        raise SettingsError(
            f"{promised} GPUs a node were promised but there is no CUDA device here; check the node's driver and "
            "device plugin and that the image is the cuda one, or set gpus=0 to train on the CPU"
        )
    if cuda and torch.cuda.device_count() < local_world:
        raise SettingsError(
            f"{local_world} processes were started on this node but only {torch.cuda.device_count()} GPUs are visible "
            "here, and each process needs its own (slices of one GPU by MIG or time-slicing count as one); lower "
            "--processes, or gpusPerNode of the chart"
        )
    if settings.model.attention == "flash_attention_2" and not is_flash_attn_2_available():
        raise SettingsError(
            "model.attention is flash_attention_2 but there is no GPU with the package flash-attn here; use sdpa"
        )
    check_installed(settings)
    if settings.model.compile and not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
        raise SettingsError("model.compile needs a C++ compiler, which is not here; install g++ or set it to false")
    if settings.precision == "fp16" and not cuda:
        raise SettingsError("precision is fp16 but there is no GPU here; use bf16 or fp32")
    if settings.precision == "bf16" and cuda and not torch.cuda.is_bf16_supported():
        raise SettingsError(f"precision is bf16, which {torch.cuda.get_device_name()} does not have; use fp16 or fp32")


def decide(settings: Settings, revision: str | None, data: Tokenized, max_length: int, world: int) -> Settings:
    """The settings with everything decided that was left open; they hold for the run's life."""
    metric = settings.evaluation.metric or default_metric(settings.task)
    check_metric(metric, settings.task)
    greater = settings.evaluation.greater_is_better
    decided = {
        "model.revision": revision,
        "data.revision": data.origin.commit,
        "data.max_length": max_length,
        "data.evaluation_fraction": held_out(settings.data, settings.task),
        "batch.micro_batches": settings.batch.micro_batches or world,
        "evaluation.metric": metric,
        "evaluation.greater_is_better": greater_is_better(metric) if greater is None else greater,
    }
    return changed(settings, decided)


def with_tokens(settings: Settings, process: ProcessRank, tell: Callable[[str], None]) -> Settings:
    """The settings with `batch.tokens` as a number: what this process's device has room for, where it is auto."""
    if settings.batch.tokens != "auto":
        return settings
    memory, device = (
        device_memory(process.local_rank, process.local_world),
        "cuda" if torch.cuda.is_available() else "cpu",
    )
    kind = kind_of(settings, process.world)
    tokens = auto_tokens(read_model(settings), settings, kind, process.world, memory, device)
    tell(
        f"batch.tokens is auto: {tokens:,} padded tokens a micro-batch, what the plan of {kind} fits in {size(memory)}"
    )
    return changed(settings, {"batch.tokens": tokens})


def with_least_tokens(settings: Settings, rooms: list[int]) -> Settings:
    """The settings with the least number of tokens that any process has room for. rooms: every process's number."""
    least, longest = min(rooms), settings.data.max_length
    if longest is not None and least < longest:
        raise SettingsError(
            f"batch.tokens is auto and one process has room for {least} tokens only, but rows of {longest} fit in "
            f"another; set data.max_length to at most {least}"
        )
    return changed(settings, {"batch.tokens": least})


def plan_of(settings: Settings, rows: Rows, packing: Packing | None = None) -> Plan:
    """The plan of all steps over the training rows, packed or as they are."""
    batch, schedule = settings.batch, settings.schedule
    assert batch.micro_batches is not None
    limits = (batch.limit, batch.samples, batch.micro_batches)
    lengths = rows.lengths if packing is None else packing.lengths
    return Plan(lengths, settings.seed, *limits, schedule.epochs, schedule.max_steps)


def deal_sentence(plan: Plan, rows: Rows, settings: Settings, world: int) -> str:
    """`16 micro-batches = 2 processes x 8, about 410 samples a step; ...`"""
    samples = round(len(rows) / plan.ends[0])
    micro_batches = counted(plan.micro_batches, "micro-batch", "micro-batches")
    idle = f" ({world * plan.slots(world) - plan.micro_batches} empty)" if plan.micro_batches % world else ""
    return (
        f"{micro_batches} = {counted(world, 'process', 'processes')} x {plan.slots(world)}{idle}, about {samples} "
        f"samples a step; {plan.steps} steps, {plan.ends[0]} an epoch; {plan.padding():.1%} padding, slowest process "
        f"{plan.imbalance(world):.2f} x the mean"
    )


def counted(number: int, one: str, many: str) -> str:
    """`1 process`, `2 processes`."""
    return f"{number:,} {one if number == 1 else many}"


def check_same_data(claimed: Claim, data: Tokenized) -> None:
    """Refuses to resume on other data than the run was started with."""
    if claimed.stored and claimed.stored["data"]["fingerprint"] != data.fingerprint:
        raise DataError(
            f"the data are not those that the run in {claimed.folder} was started with "
            f"({claimed.stored['data']['description']} then, {data.origin.description} now); bring the old data back, "
            "or choose another output_dir"
        )


def check_same_start(settings: Settings, plan: Plan, data: Tokenized, weights: list[torch.Tensor]) -> None:
    """Makes sure that all processes are about to do the same."""
    about = {
        "settings": json.dumps(flat(settings), sort_keys=True),
        "data": data.fingerprint,
        "plan": repr((plan.steps, plan.ends.tolist(), hashlib.sha256(plan.epoch(0).rows.tobytes()).hexdigest())),
        "weights": tensors_digest(weights),
    }
    for what in about:
        values = collectives.gather(about[what])
        if len(set(values)) > 1:
            other = next(rank for rank, value in enumerate(values) if value != values[0])
            raise TrainingError(f"process {other} starts with other {what} than process 0; start all from one image")


def tell_changes(claimed: Claim, record: dict[str, Any], tell: Callable[[str], None]) -> None:
    """Says what is new about the machine of a resumed run: such a change can alter the last bits."""
    for part in ("world_size", "threads", "versions", "hardware"):
        before, now = (claimed.stored or record).get(part), record[part]
        if before != now:
            if isinstance(now, dict) and isinstance(before, dict):
                now = {name: value for name, value in now.items() if before.get(name) != value}
                before = {name: before.get(name) for name in now}
            tell(f"{part.replace('_', ' ')} changed since the last attempt: {before} then, {now} now")


def recorder(log: MetricsLog | None, progress: Progress | None) -> Callable[[dict[str, Any]], None]:
    """Where the lines of metrics.jsonl go: file and person on process 0, nowhere on the others."""

    taken = True

    def record(line: dict[str, Any]) -> None:
        nonlocal taken
        if log and progress:
            before, taken = taken, log.write(line)
            if before and not taken:
                progress.say(f"{log.path} cannot be written; its lines wait in memory until it can")
            progress.step(line)

    return record
