"""A training session: one process's part in an attempt at a run, with what the loop works on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from distrain_trainer.data.loader import Collator, StepBatch
from distrain_trainer.data.plan import MicroBatches, Plan
from distrain_trainer.hardware.efficiency import Efficiency
from distrain_trainer.launch.signs import Signs
from distrain_trainer.parallel.api import Parallel
from distrain_trainer.parallel.collectives import ProcessRank
from distrain_trainer.reporting.progress import Progress
from distrain_trainer.reporting.trackers.sender import Sender
from distrain_trainer.settings.model import Settings
from distrain_trainer.storage.attempts import Fence
from distrain_trainer.storage.metrics_log import MetricsLog
from distrain_trainer.tasks.table import TASKS
from distrain_trainer.training.checkpoint.format import TrainingState
from distrain_trainer.training.checkpoint.writer import CheckpointWriter
from distrain_trainer.training.evaluation import Evaluation, plan_evaluation
from distrain_trainer.training.resolve import ResolvedRun
from distrain_trainer.training.stop import StopRequest
from distrain_trainer.training.writing import Writing

Record = Callable[[dict[str, Any]], None]
Watch = Callable[[int, int], None]


@dataclass
class TrainingSession:
    """What the loop works with, and the little that it remembers between steps.

    batches: this process's share of the steps, from `state.step` on. say: takes sentences for a person. record: takes
    each line of metrics.jsonl. watch: takes how far an evaluation is. push_best: to call when a checkpoint is
    published, which may have made another model the best. (These four do nothing except on process 0.)
    signs: of life, for the supervisor. efficiency: of process 0's GPU. sender: to the run's trackers, None where it
    has none and on other processes.
    evaluation_plan, evaluation_collator: None if there are no evaluation rows. writing: what the model writes at an
    evaluation. evaluation: the last one.
    saved_step: of the newest checkpoint of this session. saved_at: when that was begun, by the monotonic clock.
    model_alone: the disk took only the model of the last step.
    """

    resolved: ResolvedRun
    parallel: Parallel
    batches: Iterator[StepBatch]
    checkpoints: CheckpointWriter
    state: TrainingState
    stop: StopRequest
    signs: Signs
    efficiency: Efficiency
    say: Callable[[str], None]
    record: Record
    watch: Watch
    push_best: Callable[[], None]
    sender: Sender | None = None
    evaluation_plan: MicroBatches | None = field(init=False)
    evaluation_collator: Collator | None = field(init=False)
    writing: Writing | None = None
    evaluation: Evaluation | None = None
    saved_step: int = -1
    model_alone: bool = False
    saved_at: float = 0.0

    def __post_init__(self) -> None:
        rows, tokenizer = self.resolved.data.evaluation, self.resolved.tokenizer
        self.evaluation_plan = plan_evaluation(rows.sizes, self.settings) if rows else None
        self.evaluation_collator = Collator.of(self.settings, rows, tokenizer) if rows else None
        if self.evaluation_plan is not None and self.evaluation_collator is not None:
            self.writing = Writing.of(self.settings, self.evaluation_collator, self.evaluation_plan, tokenizer)

    @property
    def settings(self) -> Settings:
        return self.resolved.settings

    @property
    def process(self) -> ProcessRank:
        return self.resolved.process

    @property
    def plan(self) -> Plan:
        return self.resolved.plan

    @property
    def label_names(self) -> tuple[str, ...]:
        """Of the labels, in the order of their ids; none where they have none."""
        return self.resolved.data.label_names or ()

    @property
    def headline(self) -> tuple[str, ...]:
        """The metrics of an evaluation that a sentence shows."""
        return (*TASKS[self.settings.task].metrics(self.label_names).headline, *self.resolved.further.names)


@contextmanager
def journal(resolved: ResolvedRun, start: int, fence: Fence) -> Iterator[tuple[Record, Watch]]:
    """Where the lines of metrics.jsonl go, and how far an evaluation is: to the file and to the person on process 0,
    nowhere on the others.

    start: the step at which the session starts; later lines of the file are dropped. fence: before the file, so that
    recording raises Superseded where a younger attempt writes to it.
    """
    if not resolved.process.is_main:
        yield lambda line: None, lambda done, of: None
        return
    with Progress(resolved.plan.steps, start) as progress, MetricsLog(resolved.folder / "metrics.jsonl") as log:
        fence.check()
        log.cut_back(start)
        taken = True

        def record(line: dict[str, Any]) -> None:
            nonlocal taken
            fence.check(lately=True)
            before, taken = taken, log.write(line)
            if before and not taken:
                progress.say(f"{log.path} cannot be written; its lines wait in memory until it can")
            progress.step(line)

        yield record, progress.evaluating
