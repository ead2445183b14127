"""Settings that contradict each other: how a model is spread over processes."""

from distrain_trainer.settings.fields import Fields
from distrain_trainer.settings.sections import SHARDED, ZERO, Elastic


def strategy_contradictions(s: Fields) -> list[tuple[bool, str]]:
    """Those of how a model is spread over processes."""
    strategy = s.strategy
    undecided = strategy.kind is None and strategy.config is not None  # the file says it
    return [
        (
            strategy.offload_optimizer and strategy.kind not in ZERO and not undecided,
            f"strategy.offload_optimizer is for zero1, zero2 and zero3 but strategy.kind is {strategy.kind}; "
            "change one of them",
        ),
        (
            strategy.offload_parameters and strategy.kind != "zero3" and not undecided,
            f"strategy.offload_parameters is for zero3 but strategy.kind is {strategy.kind}; change one of them",
        ),
        (
            s.elastic.min_nodes is None and s.elastic != Elastic(),
            "elastic.wait_minutes is set but elastic.min_nodes is not, which lets a run go on with fewer nodes; set it",
        ),
        (
            strategy.kind in (*ZERO, *SHARDED) and s.precision == "fp16",
            f"strategy.kind is {strategy.kind} and precision fp16, whose small gradients are scaled under single and "
            "ddp only; choose bf16 or fp32, or ddp",
        ),
    ]
