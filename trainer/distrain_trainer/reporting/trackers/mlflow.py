"""MLflow: a run in an experiment of the server at MLFLOW_TRACKING_URI.

MLflow numbers its runs itself and takes any step any number of times. So the run is found by a tag, and what its server
has of the value that ends every row says where to go on.
"""

import logging
import time
from collections.abc import Sequence

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run

from distrain_trainer.reporting.trackers.api import ANSWER, EPOCH, NOTHING, Results, Row, Status, TrackedRun, flattened

TAG = "distrain.id"
STATUS: dict[Status, str] = {"finished": "FINISHED", "stopped": "KILLED", "out_of_time": "KILLED", "failed": "FAILED"}
METRICS = 1000
PARAMETERS = 100
"""Most of them that MLflow takes in one request."""
LONGEST = 500
"""Characters of a parameter that MLflow has always taken."""
LAST = "total/tokens"
"""One of the results, by which it is known whether they have been sent."""


class MLflow:
    """The run in an experiment of MLflow."""

    def __init__(self, run: TrackedRun):
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        self._about, self._client = run, MlflowClient()
        self._id = ""

    def open(self, kept: int) -> int:
        run = self._find_or_make()
        self._id = run.info.run_id
        self._client.update_run(self._id, status="RUNNING")
        self._describe(known=run.data.params)
        return self._newest(EPOCH)

    def send(self, rows: Sequence[Row]) -> None:
        """Rows are never cut in two: MLflow takes the values of a request in their order, together or not at all."""
        batch: list[Metric] = []
        for row in rows:
            if len(batch) + len(row.values) > METRICS:
                self._client.log_batch(self._id, metrics=batch)
                batch = []
            batch += _metrics(row.values, row.step)
        self._client.log_batch(self._id, metrics=batch)

    def finish(self, status: Status, results: Results | None) -> None:
        if results is not None:
            if self._newest(LAST) != results.step:
                self._client.log_batch(self._id, metrics=_metrics(results.metrics, results.step))
            for path in results.files:
                self._client.log_artifact(self._id, str(path))
            if results.matrix:
                matrix = {"labels": results.labels, "counts": results.matrix}
                self._client.log_dict(self._id, matrix, "confusion_matrix.json")
            if results.answers:
                # As `mlflow.log_table` writes it, which the web page shows as a table.
                rows = [[answer[name] for name in ANSWER] for answer in results.answers]
                self._client.log_dict(self._id, {"columns": [*ANSWER], "data": rows}, "answers.json")
        self._client.set_terminated(self._id, STATUS[status])

    def _find_or_make(self) -> Run:
        name = self._about.project_or("MLFLOW_EXPERIMENT_NAME")
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        runs = self._client.search_runs([experiment], f"tags.`{TAG}` = '{self._about.id}'", max_results=1)
        if runs:
            return runs[0]
        tags = {TAG: self._about.id, "mlflow.source.name": "distrain"}
        if commit := self._about.facts["git_commit"]:
            tags["mlflow.source.git.commit"] = commit
        return self._client.create_run(experiment, run_name=self._about.name, tags=tags)

    def _describe(self, known: dict[str, str]) -> None:
        """Sends settings and facts as parameters. known: those that MLflow has, which it lets nobody change."""
        values = flattened(self._about.settings | {"run": self._about.facts})
        texts = {name: str(value)[:LONGEST] for name, value in values.items() if value is not None}
        new = [Param(name, text) for name, text in texts.items() if name not in known]
        for first in range(0, len(new), PARAMETERS):
            self._client.log_batch(self._id, params=new[first : first + PARAMETERS])

    def _newest(self, name: str) -> int:
        """The newest step that MLflow has a value of."""
        if name not in self._client.get_run(self._id).data.metrics:
            return NOTHING
        return max(value.step for value in self._client.get_metric_history(self._id, name))


def _metrics(values: dict[str, float], step: int) -> list[Metric]:
    now = int(time.time() * 1000)
    return [Metric(name, value, now, step) for name, value in values.items()]
