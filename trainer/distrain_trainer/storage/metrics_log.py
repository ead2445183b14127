"""metrics.jsonl: one JSON object a line for each step, evaluation and event of a run."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from distrain_trainer.storage.files import json_line, write_text

TRAIN_LINE = {
    "step": "Optimizer steps done.",
    "epoch": "Passes over the data done.",
    "loss": "Loss of the step: nats per target, over all processes.",
    "learning_rate": "Learning rate of the step.",
    "grad_norm": "Norm of the whole gradient before clipping; null where it is not finite.",
    "samples": "Rows of the step, over all processes.",
    "tokens": "Tokens of the step without padding, over all processes.",
    "tokens_per_second": "The same per second, over all processes.",
    "padding_fraction": "Part of all tokens that is padding.",
    "step_seconds": "Seconds that the step took, with everything in between.",
    "data_seconds": "Seconds that process 0 waited for the loader to give it the step's rows.",
    "sync_seconds": "Seconds of the step in which process 0 waited for what all processes exchange at its end.",
    "memory_bytes": "Peak memory of process 0 in bytes.",
    "gpu_utilization": "Part of the last second or less in which the GPU of process 0 computed; null where unknown.",
    "mfu": "What the model needs for the tokens, without padding, of what the GPUs can do at most; null where unknown.",
    "straggler": "The process that is over 1.5 x as slow as the others, its node and how slow; null: none.",
    "nodes": "Nodes that took part.",
}
"""What the line of a step holds."""
EVALUATION_LINE = {
    "step": "Optimizer steps done.",
    "epoch": "Passes over the data done.",
    "eval_loss": "Loss over all targets of the evaluation: nats per target.",
    "eval_...": "The metrics of the task, and those of `evaluation.metrics`.",
}
"""What the line of an evaluation holds."""
EVENTS = {
    "start": "A run begins; also `attempt`, `processes`, `nodes`, `absent` (nodes that do not take part).",
    "resume": "It continues from a checkpoint; the same values.",
    "checkpoint": "The checkpoint of this step is published.",
    "straggler": "A slow process is named for the first time.",
    "nonfinite": "The gradient was not finite, and the step was skipped.",
    "early_stop": "`evaluation.patience` ends the run.",
    "regroup": "A node is back; all nodes meet again behind a checkpoint.",
    "preempted": "The run was asked to stop in a cluster; a checkpoint is written.",
    "interrupted": "The run was asked to stop elsewhere; a checkpoint is written.",
    "out_of_time": "`max_hours` is reached; a checkpoint is written.",
    "end": "The run is finished.",
}
"""What the `event` of an event line is. Some have a `message`."""


class MetricsLog:
    """Appends lines to metrics.jsonl, each readable as soon as `write` returns.

    TRAIN_LINE and EVALUATION_LINE say what a line holds; an event line holds step, event (EVENTS) and the event's own
    values.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists():
            # A kill can leave half a line at the end, to which the next line would be appended.
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
        self._file = path.open("ab", buffering=0)
        self._pending = b""

    def write(self, line: Mapping[str, object]) -> bool:
        """Appends one line. Non-finite numbers become null, since JSON has none.

        Returns False if the disk refused it; the line then stays in memory and is written with a later one.
        """
        self._pending += (json_line(line) + "\n").encode("ascii")
        try:
            while self._pending:
                self._pending = self._pending[self._file.write(self._pending) :]
        except OSError:
            return False
        return True

    def cut_back(self, step: int) -> None:
        """Drops every line after `step`, so that a run resumed there writes each step once. Raises OSError.

        At step 0 the events alone stay: an evaluation before the first step is made again.
        """
        self._file.close()
        kept = [line for line in read_metrics(self.path) if line.get("step", 0) <= step and (step or "event" in line)]
        write_text(self.path, "".join(json_line(line) + "\n" for line in kept))
        self._file = self.path.open("ab", buffering=0)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, none if there is no file. Torn lines, left by a kill or a full disk, are skipped."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_bytes().splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines
