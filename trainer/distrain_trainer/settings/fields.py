"""All settings of a run, each of which is checked by itself. `model` refuses those that contradict each other."""

from typing import Literal

from pydantic import Field

from distrain_trainer.console import Level
from distrain_trainer.settings.sections import (
    Batch,
    Chat,
    Checkpoint,
    Data,
    Elastic,
    Ema,
    Evaluation,
    Hub,
    Lora,
    Loss,
    Model,
    Optimizer,
    Preference,
    Quantization,
    Schedule,
    Section,
    Strategy,
    Tracking,
)
from distrain_trainer.settings.tasks import FACTS, Task, TaskFacts


class Fields(Section):
    """All settings of a run, and what follows from them alone."""

    task: Task = "sequence-classification"
    """What the model learns."""
    model: Model = Model()
    data: Data = Data()
    batch: Batch = Batch()
    loss: Loss = Loss()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Precision of the forward and backward pass. Weights and optimizer stay fp32. fp16 needs a GPU."""
    strategy: Strategy = Strategy()
    lora: Lora = Lora()
    quantization: Quantization = Quantization()
    chat: Chat = Chat()
    preference: Preference = Preference()
    evaluation: Evaluation = Evaluation()
    ema: Ema = Ema()
    checkpoint: Checkpoint = Checkpoint()
    hub: Hub = Hub()
    elastic: Elastic = Elastic()
    tracking: Tracking = Tracking()
    seed: int = Field(42, ge=0, lt=2**31)
    """Seed of data order, dropout, masks and new layers."""
    deterministic: bool = False
    """Deterministic kernels only: slower, and what bit-exact resumes on a GPU need. A CPU is always exact."""
    max_hours: float | None = Field(None, gt=0)
    """Hours of training over all attempts after which the run writes a checkpoint and leaves with 71."""
    log_level: Level = "info"
    """The least important messages that are shown."""
    run_id: str | None = None
    """Name of the run. A folder that carries the same name is continued without being asked."""
    output_dir: str = "out"
    """Folder of everything that the run leaves."""

    @property
    def facts(self) -> TaskFacts:
        """What is known of the task."""
        return FACTS[self.task]

    def row_tokens(self, longest: int) -> int:
        """Padded tokens of a row as long as may be. longest: `data.max_length`, decided."""
        if self.facts.compares:
            return 2 * longest
        return longest + (self.data.max_target_length if self.facts.writes else 0)

    def longest_in(self, tokens: int) -> int:
        """The most that `data.max_length` may be where a micro-batch has room for some tokens."""
        return tokens // 2 if self.facts.compares else tokens - self.row_tokens(0)
