"""What a DeepSpeed or Accelerate file says about the batch.

To DeepSpeed a step is rows per GPU x accumulation x GPUs, all of which a file may fix. Here it is `batch.samples` x
`batch.micro_batches` on any number of processes, so a file gives accumulation x processes, or the rows of a step.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from distrain_trainer.errors import SettingsError
from distrain_trainer.settings.sections import Batch

Part = str
"""`rows` of a micro-batch, `step`: rows of a step, `accumulation`, `processes`."""


@dataclass
class BatchKeys:
    """What a file fixes. values: part -> number. sources: part -> key and number, for sentences."""

    path: str
    values: dict[Part, int] = field(default_factory=dict)
    sources: dict[Part, str] = field(default_factory=dict)

    def take(self, part: Part, key: str, value: Any, path: str) -> None:
        """Takes what a key says. path: of the file that it is in, which the other may have named. Raises SettingsError
        where it is no number of things, or contradicts another key."""
        if part == "processes" and value == -1:  # Accelerate's word for not known
            return
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise SettingsError(f"{key} in {path} is {value!r}, but it should be a whole number from 1, or auto")
        source = f"{key} {value}"
        if self.values.get(part, value) != value:
            raise SettingsError(f"{path}: {self.sources[part]} and {source} contradict each other; keep one")
        self.values[part], self.sources[part] = value, source

    def settings(self, asked: Mapping[str, object]) -> dict[str, tuple[int, str]]:
        """Setting -> its value, and what in the file says so.

        asked: dotted names to values of what somebody has set, which decides what the file leaves open. Raises
        SettingsError where its numbers do not fit each other, or leave the number of micro-batches open.
        """
        rows, micro_batches, why = self._decided(asked)
        found: dict[str, tuple[int, str]] = {}
        if rows is not None:
            found["batch.samples"] = rows, why if "rows" not in self.values else self.sources["rows"]
        if micro_batches is not None:
            found["batch.micro_batches"] = micro_batches, why
        return found

    def _decided(self, asked: Mapping[str, object]) -> tuple[int | None, int | None, str]:
        """(rows of a micro-batch, micro-batches of a step, what says so); None for what the file leaves open."""
        rows, step, processes = (self.values.get(part) for part in ("rows", "step", "processes"))
        accumulation = self.values.get("accumulation", 1)
        why = " and ".join(self.sources.values())
        if step is not None and rows is not None:
            micro_batches = self._quotient(step, rows, ("rows",))
            self._quotient(step, rows * accumulation, ("rows", "accumulation"))
            if "accumulation" in self.values and processes is not None and micro_batches != accumulation * processes:
                raise SettingsError(
                    f"{why} in {self.path} contradict each other: a step would have "
                    f"{rows * accumulation * processes} rows; change one of them"
                )
            return rows, micro_batches, f"train_batch_size {step} in micro-batches of {rows}"
        if step is not None and processes is not None:
            micro_batches = accumulation * processes
            return self._quotient(step, micro_batches, ("accumulation", "processes")), micro_batches, why
        if step is not None:
            rows = self._rows_of_step(step, accumulation, asked)
            return rows, step // rows, why
        if accumulation == 1:
            return rows, None, why
        if processes is not None:
            return rows, accumulation * processes, f"{self.sources['accumulation']} x {self.sources['processes']}"
        self._check_accumulation(accumulation, asked.get("batch.micro_batches"))
        return rows, None, why

    def _rows_of_step(self, step: int, accumulation: int, asked: Mapping[str, object]) -> int:
        """Rows of a micro-batch where the file fixes those of a step, for any number of processes: what was asked for,
        or as many as divide the step and are no more than the default."""
        micro_batches, samples = asked.get("batch.micro_batches"), asked.get("batch.samples")
        if isinstance(micro_batches, int):
            return self._quotient(step, micro_batches, asked=f"batch.micro_batches {micro_batches}")
        each = self._quotient(step, accumulation, ("accumulation",))
        if isinstance(samples, int):
            self._quotient(each, samples, ("accumulation",), f"batch.samples {samples}")
            return samples
        most = Batch().samples or 1
        return next(rows for rows in range(most, 0, -1) if each % rows == 0)

    def _check_accumulation(self, accumulation: int, micro_batches: object) -> None:
        """Raises SettingsError where accumulation per process says nothing without the number of processes."""
        shown = f"{self.sources['accumulation']} in {self.path}"
        if not isinstance(micro_batches, int):
            raise SettingsError(
                f"{shown} is per process, and the file does not say of how many; set batch.micro_batches to "
                f"{accumulation} times their number, such as batch.micro_batches: {2 * accumulation} for 2"
            )
        if micro_batches % accumulation:
            raise SettingsError(
                f"batch.micro_batches is {micro_batches}, which is not a multiple of {shown}; change one of them"
            )

    def _quotient(self, rows: int, divisor: int, parts: tuple[Part, ...] = (), asked: str = "") -> int:
        """Rows of a step divided by what the parts of the file, and what was asked for, come to."""
        if rows % divisor:
            by = " x ".join([*(self.sources[part] for part in parts if part in self.sources), *filter(None, [asked])])
            raise SettingsError(f"{self.sources['step']} in {self.path} is not a multiple of {by}; change one of them")
        return rows // divisor
