"""The plan of a run's steps, and the sentence that describes it."""

from distrain_trainer.data.packing import Packing
from distrain_trainer.data.plan import Plan
from distrain_trainer.data.tokens import Rows
from distrain_trainer.settings.model import Settings


def plan_of(settings: Settings, rows: Rows, packing: Packing | None = None) -> Plan:
    """The plan of all steps over the training rows, packed or as they are."""
    batch, schedule = settings.batch, settings.schedule
    assert batch.micro_batches is not None
    limits = (batch.limit, batch.samples, batch.micro_batches)
    lengths = rows.lengths if packing is None else packing.lengths
    return Plan(lengths, settings.seed, *limits, schedule.epochs, schedule.max_steps)


def plan_sentence(plan: Plan, rows: Rows, world: int) -> str:
    """`16 micro-batches = 2 processes x 8, about 410 samples a step; ...`"""
    samples = round(len(rows) / plan.ends[0])
    micro_batches = _counted(plan.micro_batches, "micro-batch", "micro-batches")
    idle = f" ({world * plan.slots(world) - plan.micro_batches} empty)" if plan.micro_batches % world else ""
    return (
        f"{micro_batches} = {_counted(world, 'process', 'processes')} x {plan.slots(world)}{idle}, about {samples} "
        f"samples a step; {plan.steps} steps, {plan.ends[0]} an epoch; {plan.padding():.1%} padding, slowest process "
        f"{plan.imbalance(world):.2f} x the mean"
    )


def _counted(number: int, one: str, many: str) -> str:
    """`1 process`, `2 processes`."""
    return f"{number:,} {one if number == 1 else many}"
