"""Weights & Biases, online and offline (WANDB_MODE).

Online: a run of the same id is resumed, and its server says which step comes next; an earlier one would be dropped.
Offline: nobody can say what was uploaded from which folder, so each start writes the whole run anew into `wandb/` of
the run's folder, in place of what was there; `wandb sync` uploads it.
"""

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import requests
import wandb

from distrain_trainer.reporting.trackers.api import ANSWER, NOTHING, Results, Row, Status, TrackedRun

SECONDS_TO_ANSWER = 5.0
SECONDS_TO_CONNECT = 20.0
SECONDS_TO_FINISH, SECONDS_TO_FINISH_LATER = 40.0, 600.0
"""How long the rest may take to be sent: at the end of a run that others wait for, and of one that is sent later."""
SECONDS_BETWEEN_PARTS = 5.0
"""How often wandb's own process sends on what it was given."""
AWAY = (502, 503, 504)
"""How a proxy answers for a server that is not there."""
MATRIX = ("Actual", "Predicted", "nPredictions")
EXIT_CODES: dict[Status, int] = {"finished": 0, "stopped": 143, "out_of_time": 71, "failed": 70}
CLASSES = 100
"""Most classes of a confusion matrix that is drawn: a table of W&B ends at 10,000 rows."""


class WandB:
    """The run in a project of W&B."""

    def __init__(self, run: TrackedRun):
        self._about = run
        self._run: Any = None
        self._sent, self._sent_here = NOTHING, False
        self._stopped = False
        self._scratch = tempfile.mkdtemp(prefix="distrain-wandb-")
        for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
            os.environ.setdefault(name, self._scratch)
        known = wandb.setup().settings
        self._server, self._offline = known.base_url, known.mode != "online"

    def open(self, kept: int) -> int:
        """Begins or resumes the run. wandb itself goes on by itself after an error of the network."""
        self._reach()
        if self._run is None:
            self._run = self._begin()
            self._sent = self._run.starting_step - 1
            if self._sent == NOTHING:  # else it may have been renamed there
                self._run.name = self._about.name
        return self._sent

    def send(self, rows: Sequence[Row]) -> None:
        self._reach()
        for row in rows:
            self._run.log(row.values | {"train/global_step": row.step}, step=row.step)
            self._sent, self._sent_here = row.step, True

    def finish(self, status: Status, results: Results | None) -> None:
        self._reach()
        if results is not None:
            self._run.summary.update(results.metrics)
            self._show(results)
        if status == "stopped":
            self._run.mark_preempting()
        self._run.finish(EXIT_CODES[status])
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _begin(self) -> Any:
        folder = Path(os.environ.get("WANDB_DIR") or (self._about.folder if self._offline else self._scratch))
        if self._offline:
            for before in folder.glob(f"wandb/offline-run-*-{self._about.id}"):
                shutil.rmtree(before)
        settings = wandb.Settings(
            console="off",
            disable_git=True,
            save_code=False,
            symlink=False,
            silent=True,
            init_timeout=SECONDS_TO_CONNECT,
            finish_timeout=SECONDS_TO_FINISH if self._about.pid else SECONDS_TO_FINISH_LATER,
            finish_timeout_raises=True,
            stop_fn=self._stop,  # by default it interrupts this process
            stop_on_fatal_error=True,
            x_disable_stats=self._about.pid is None,
            x_stats_pid=self._about.pid or os.getpid(),
            x_file_stream_transmit_interval=SECONDS_BETWEEN_PARTS,
        )
        return wandb.init(
            project=self._about.project_or("WANDB_PROJECT"),
            id=self._about.id,
            dir=folder,
            resume=None if self._offline else "allow",
            config=self._about.settings | {"run": self._about.facts},
            allow_val_change=True,
            settings=settings,
        )

    def _show(self, results: Results) -> None:
        """Sends what is not a number: beside the values of the last step where these were sent from here, and else into
        the summary, for a step that the server has takes no more."""
        shown: dict[str, Any] = {}
        if results.report:
            shown["report"] = wandb.Html(str(results.report), inject=False)
        if results.answers:
            shown["answers"] = wandb.Table([*ANSWER], [[answer[name] for name in ANSWER] for answer in results.answers])
        if results.matrix and len(results.labels) <= CLASSES:
            shown["confusion_matrix"] = _matrix(results)
        if self._sent_here and self._sent == results.step:
            if table := shown.get("confusion_matrix"):
                shown["confusion_matrix"] = _drawn(table)
            self._run.log(shown, step=results.step)
        else:
            self._run.summary.update(shown)

    def _stop(self) -> None:
        self._stopped = True

    def _reach(self) -> None:
        """Raises ConnectionError where W&B does not take the run: wandb itself says so only to a person."""
        if self._stopped:
            raise ConnectionError("W&B has stopped this run, by its stop button or after an error")
        if self._offline:
            return
        try:
            answer = requests.get(self._server, timeout=SECONDS_TO_ANSWER)
        except requests.exceptions.SSLError:  # somebody is there, and wandb knows better whom to trust
            return
        except requests.RequestException as error:
            raise ConnectionError(f"{self._server} cannot be reached: {type(error).__name__}") from None
        if answer.status_code in AWAY:
            raise ConnectionError(f"{self._server} answers {answer.status_code}")


def _matrix(results: Results) -> wandb.Table:
    """A confusion matrix as W&B's own chart wants it."""
    cells = zip(results.labels, results.matrix, strict=True)
    rows = [[true, label, count] for true, row in cells for label, count in zip(results.labels, row, strict=True)]
    return wandb.Table(list(MATRIX), rows)


def _drawn(matrix: wandb.Table) -> Any:
    """The chart of a confusion matrix."""
    return wandb.plot_table(
        "wandb/confusion_matrix/v1", matrix, {name: name for name in MATRIX}, {"title": "Confusion matrix"}
    )
