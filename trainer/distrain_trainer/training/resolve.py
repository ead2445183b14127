"""What a run is: everything that is decided before its processes connect, in one frozen object."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from distrain_trainer.console import warn
from distrain_trainer.data.chat import use_template
from distrain_trainer.data.mix import prepare_all
from distrain_trainer.data.packing import Packing, packing_of
from distrain_trainer.data.plan import Plan
from distrain_trainer.data.sources import held_out
from distrain_trainer.data.tokens import Tokenized
from distrain_trainer.errors import SettingsError
from distrain_trainer.hardware.machine import device_memory
from distrain_trainer.hardware.numerics import set_up_numerics
from distrain_trainer.hardware.threads import threads_for
from distrain_trainer.hub.commits import is_reachable
from distrain_trainer.launch.cluster_environment import ClusterEnvironment
from distrain_trainer.memory.advice import read_model, size
from distrain_trainer.memory.estimate import auto_tokens, fewest_processes, kind_of
from distrain_trainer.metrics.metrics import greater_is_better
from distrain_trainer.models.load import check_kind, load_config, load_tokenizer, longest_row
from distrain_trainer.models.load import resolve as locate_model
from distrain_trainer.parallel import collectives
from distrain_trainer.parallel.collectives import ProcessRank
from distrain_trainer.reporting.trackers.choice import check_trackers
from distrain_trainer.settings.model import Settings, changed, explicit, flat
from distrain_trainer.storage.run_folder import Claim
from distrain_trainer.tasks.kto import balance_sentence
from distrain_trainer.tasks.table import TASKS, check_metric
from distrain_trainer.tasks.weights import class_weights, weights_sentence
from distrain_trainer.training.checks import check_device, check_memory_of_fewer, check_same_data
from distrain_trainer.training.further import Further, further_of
from distrain_trainer.training.planning import plan_of, plan_sentence, plan_warnings, same_elsewhere


@dataclass(frozen=True)
class ResolvedRun:
    """A run with everything decided; one process of it.

    folder: where the results go. run_id: of the run's first start. asked: dotted names and values of the settings that
    were set explicitly then. stored: settings.json of the run that is continued, None on a fresh start.
    settings: nothing is left open in them. auto_tokens: batch.tokens is what this process has room for, and all
    processes have yet to agree on it. model_name, model_revision: a Hub name and its commit, or a folder and None.
    weights: of classes in the loss, None where all count the same. further: metrics beside the task's own.
    """

    folder: Path
    run_id: str
    asked: dict[str, object]
    stored: dict[str, Any] | None
    settings: Settings
    auto_tokens: bool
    process: ProcessRank
    threads: int
    model_name: str
    model_revision: str | None
    tokenizer: PreTrainedTokenizerBase
    data: Tokenized
    packing: Packing | None
    weights: tuple[float, ...] | None
    further: Further
    plan: Plan

    def tell_plan(self, tell: Callable[[str], None], why: str = "") -> None:
        """Says `16 micro-batches = 2 processes x 8, about 410 samples a step; ...`, worked out on process 0 only, and
        what a person should change about it."""
        if not self.process.is_main:
            return
        tell(why + plan_sentence(self.plan, self.data.train, self.process.world))
        if "batch.micro_batches" not in self.asked:
            tell(same_elsewhere(self.plan))
        for sentence in plan_warnings(self.plan, self.settings, self.process.world):
            warn(sentence)


def resolve(asked: Settings, claimed: Claim, process: ProcessRank, tell: Callable[[str], None]) -> ResolvedRun:
    """Decides what the settings leave open, and prepares the data. No process waits for another here.

    claimed: what the output folder holds of the run. tell: takes sentences for a person.
    Also sets this process's threads and numerics. Raises DistrainError.
    """
    threads = threads_for(process.local_world)
    settings = claimed.settings
    cluster, begun = ClusterEnvironment.read(), claimed.stored is not None
    if process.is_main and not begun:
        check_trackers(settings.tracking)
    check_device(settings, process.local_world, cluster.gpus_per_node or 0, begun, cluster.node_name)
    set_up_numerics(threads, settings.deterministic)

    model_name, model_revision = locate_model(settings.model)
    if model_revision is not None and not is_reachable():
        tell(f"the Hub does not answer: {model_name} is taken from the cache, as it was at commit {model_revision[:7]}")
    tokenizer = load_tokenizer(model_name, model_revision, settings.model.added_tokens or ())
    auto = settings.batch.tokens == "auto"
    if auto:
        settings = with_tokens_for_memory(settings, process, tell)
    check_memory_of_fewer(settings, claimed, process)
    use_template(tokenizer, settings)
    config = load_config(model_name, model_revision)
    check_kind(settings, config)
    max_length = longest_row(settings, config, tokenizer)
    data = prepare_all(settings, tokenizer, max_length, tell, first=process.local_rank == 0)
    check_same_data(claimed, data)
    further = further_of(settings, data.evaluation, data.label_names or ())
    settings = with_defaults(settings, model_revision, data, max_length, process.world, further)

    packing = packing_of(settings, data.train, tell)
    weights = class_weights(settings, data.train.labels, data.label_names or ())
    labelled = TASKS[settings.task].labelled
    if labelled is not None and labelled.describe is not None and data.train.labels is not None:
        tell(labelled.describe(data.train.labels))
    if data.train.desirable is not None:
        tell(balance_sentence(settings.preference, data.train.desirable))
    if weights is not None:
        tell(weights_sentence(weights, data.label_names or ()))
    run_id, first_asked = _identity(asked, claimed)
    return ResolvedRun(
        folder=claimed.folder,
        run_id=run_id,
        asked=first_asked,
        stored=claimed.stored,
        settings=settings,
        auto_tokens=auto,
        process=process,
        threads=threads,
        model_name=model_name,
        model_revision=model_revision,
        tokenizer=tokenizer,
        data=data,
        packing=packing,
        weights=weights,
        further=further,
        plan=plan_of(settings, data.train, packing),
    )


def with_common_tokens(resolved: ResolvedRun, tell: Callable[[str], None]) -> ResolvedRun:
    """The same run with an automatic `batch.tokens` that every process has room for. On all processes, connected."""
    if not resolved.auto_tokens:
        return resolved
    tokens = resolved.settings.batch.tokens
    settings = with_least_tokens(resolved.settings, collectives.gather(resolved.plan.tokens))
    if settings.batch.tokens == tokens:
        return resolved
    plan = plan_of(settings, resolved.data.train, resolved.packing)
    resolved = replace(resolved, settings=settings, plan=plan)
    resolved.tell_plan(tell, "another process has less memory: ")
    return resolved


def with_tokens_for_memory(settings: Settings, process: ProcessRank, tell: Callable[[str], None]) -> Settings:
    """The settings with `batch.tokens` as the number that this process's device has room for."""
    memory = device_memory(process.local_rank, process.local_world)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = kind_of(settings, process.world)
    fewest = fewest_processes(settings, process.nodes, process.local_world)
    tokens = auto_tokens(read_model(settings), settings, kind, fewest, memory, device)
    tell(
        f"batch.tokens is auto: {tokens:,} padded tokens per micro-batch, the memory plan of {kind} for {size(memory)}"
    )
    return changed(settings, {"batch.tokens": tokens})


def with_least_tokens(settings: Settings, rooms: list[int]) -> Settings:
    """The settings with the least number of tokens that any process has room for. rooms: every process's number.

    Raises SettingsError if a row is longer than that.
    """
    least, longest = min(rooms), settings.data.max_length
    if longest is not None and least < settings.row_tokens(longest):
        raise SettingsError(
            f"batch.tokens is auto and one process has room for {least} tokens only, but another has room for rows of "
            f"{longest}; set data.max_length to at most {settings.longest_in(least)}"
        )
    return changed(settings, {"batch.tokens": least})


def with_defaults(
    settings: Settings, revision: str | None, data: Tokenized, max_length: int, world: int, further: Further
) -> Settings:
    """The settings with everything decided that was left open; it then holds for the run's life."""
    names = data.label_names or ()
    metric = settings.evaluation.metric or TASKS[settings.task].metrics(names).best
    check_metric(metric, settings.task, names, further.names)
    greater = settings.evaluation.greater_is_better
    decided = {
        "model.revision": revision,
        "data.revision": data.origin.commit,
        "data.mix": list(data.origin.mix) or None,
        "data.max_length": max_length,
        "data.evaluation_fraction": held_out(settings),
        "batch.micro_batches": settings.batch.micro_batches or world,
        "evaluation.metric": metric,
        "evaluation.greater_is_better": greater_is_better(metric) if greater is None else greater,
    }
    return changed(settings, decided)


def _identity(asked: Settings, claimed: Claim) -> tuple[str, dict[str, object]]:
    """The run's id, and what was asked for at its first start."""
    if claimed.stored:
        return claimed.stored["run_id"], claimed.stored["asked"]
    values = flat(asked)
    return asked.run_id or uuid.uuid4().hex[:12], {name: values[name] for name in sorted(explicit(asked))}
