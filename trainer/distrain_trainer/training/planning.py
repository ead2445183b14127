"""The plan of a run's steps, and the sentences that describe it."""

from math import ceil

from distrain_trainer.data.packing import Packing
from distrain_trainer.data.plan import Plan
from distrain_trainer.data.rows import Rows
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.sections import Batch

FEW_STEPS = 50
"""Steps of an epoch below which a person is told: with fewer, three epochs hardly train."""
MUCH_PADDING = 0.3
"""Fraction of padding above which a person is told."""


def plan_of(settings: Settings, rows: Rows, packing: Packing | None = None) -> Plan:
    """The plan of all steps over the training rows, packed or as they are."""
    batch, schedule = settings.batch, settings.schedule
    assert batch.micro_batches is not None
    limits = (batch.limit, batch.samples, batch.micro_batches)
    lengths = rows.sizes if packing is None else packing.lengths
    filled = int(rows.lengths.sum())
    return Plan(lengths, settings.seed, *limits, schedule.epochs, schedule.max_steps, filled)


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


def same_elsewhere(plan: Plan) -> str:
    """What to set so that another number of processes takes the same steps."""
    return f"set batch.micro_batches: {plan.micro_batches} to take the same steps on other hardware"


def plan_warnings(plan: Plan, settings: Settings, world: int) -> list[str]:
    """What a person should change about the plan before the run has cost its time, one sentence each."""
    found = []
    steps = int(plan.ends[0])
    if steps < FEW_STEPS and settings.schedule.max_steps is None and plan.steps < 3 * FEW_STEPS:
        rows = round(len(plan.lengths) / steps)
        found.append(
            f"an epoch has only {_counted(steps, 'step', 'steps')} of about {_counted(rows, 'row', 'rows')}, and the "
            f"run {plan.steps}, which may be too few to learn from; {_more_steps(plan, settings.batch, world)}"
        )
    if plan.padding() > MUCH_PADDING:
        packing = (
            "batch.packing: true, " if settings.facts.target == "next-token" and not settings.batch.packing else ""
        )
        found.append(
            f"{plan.padding():.0%} of the tokens are padding, because texts of very different length share a "
            f"micro-batch; set {packing}a lower batch.samples or a lower data.max_length"
        )
    return found


def _more_steps(plan: Plan, batch: Batch, world: int) -> str:
    """What to set for more steps: smaller ones where they are larger than the default's, else more epochs."""
    usual = Batch().samples
    if batch.samples is None or (usual is not None and batch.samples > usual):
        return f"set batch.samples: {usual}"
    if plan.micro_batches > world:
        return f"set batch.micro_batches: {world}"
    return f"set schedule.epochs: {ceil(3 * FEW_STEPS / int(plan.ends[0]))}"


def _counted(number: int, one: str, many: str) -> str:
    """`1 process`, `2 processes`."""
    return f"{number:,} {one if number == 1 else many}"
