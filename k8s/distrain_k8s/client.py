"""The client as a Python API, for notebooks and pipelines: what the commands do, with dataclasses instead of text."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from distrain_k8s.helm import Helm, find_helm
from distrain_k8s.kube.client import PATIENCE, Api, Patience, connect
from distrain_k8s.kube.objects import Event
from distrain_k8s.output import say
from distrain_k8s.runs import control
from distrain_k8s.runs.find import find_run, list_runs, observe
from distrain_k8s.runs.plan import Plan
from distrain_k8s.runs.status import Run
from distrain_k8s.runs.submit import ask, plan_runs, submit
from distrain_k8s.runs.values import read_values, run_name
from distrain_k8s.runs.wait import Outcome, wait_for
from distrain_k8s.watch.fetch import Fetched, fetch
from distrain_k8s.watch.logs import Line, Wanted, follow_logs, read_logs
from distrain_k8s.watch.progress import Progress, Waiting, told_by


class Client:
    """A cluster's runs, as kubectl would find the cluster.

        with Client(namespace="team") as client:
            print([run.name for run in client.list() if run.phase == "Failed"])

    context, namespace, kubeconfig: as kubectl's options. Raises KubeconfigError. Every method raises ClientError where
    the cluster cannot be asked, and NotFound where there is no such run. May be used by several threads.
    """

    def __init__(
        self,
        context: str | None = None,
        namespace: str | None = None,
        kubeconfig: str | None = None,
        patience: Patience = PATIENCE,
    ) -> None:
        self.kubeconfig = kubeconfig
        self.api: Api = connect(context, namespace, kubeconfig, patience, say)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections to the cluster."""
        self.api.close()

    @property
    def namespace(self) -> str:
        """The namespace that is meant where a method is given none."""
        return self.api.namespace

    # Watching

    def list(self, foreign: bool = False, everywhere: bool = False, labels: str = "") -> "list[Run]":
        """The runs of the namespace, the newest first.

            [run.name for run in client.list(labels="team=nlp") if run.phase == "Pending"]

        foreign: also jobs that were not made from distrain's chart. everywhere: of all namespaces. labels: a selector.
        """
        return list_runs(self.api, foreign, everywhere, labels)

    def status(self, name: str) -> Run:
        """Where a run stands: its phase, and what holds it up or has ended it.

        run = client.status("run1")
        if run.cause:
            print(run.cause.sentence, run.cause.mend)
        """
        return find_run(self.api, name)

    def progress(self, name: str) -> Progress | None:
        """How far a run is, from its log; None before its first step.

        progress = client.progress("run1")
        print(progress.step, progress.steps, progress.loss)
        """
        return told_by(self.api, find_run(self.api, name)).progress

    def waiting(self, name: str) -> Waiting | None:
        """What a run waits for before it goes on, such as a volume that is full, and since when; None where it does
        not wait.

        if waiting := client.waiting("run1"):
            print(waiting.message, waiting.since)
        """
        return told_by(self.api, find_run(self.api, name)).waiting

    def logs(
        self,
        name: str,
        follow: bool = False,
        nodes: Sequence[int] = (),
        since: datetime | None = None,
        tail: int | None = None,
    ) -> Iterator[Line]:
        """Lines of a run's pods.

            for line in client.logs("run1", follow=True):
                print(line.rank, line.text)

        follow: as they are written, over restarts and lost connections, until the run ends; else those that are there.
        nodes: ranks, empty for all. since: not before this time. tail: the last lines of each pod.
        """
        read = follow_logs if follow else read_logs
        return read(self.api, name, Wanted(tuple(nodes), since, tail), say)

    def wait(self, name: str, timeout: float | None = None, stall: float | None = None) -> Outcome:
        """Waits until a run has ended, and says why.

            outcome = client.wait("run1", timeout=3600)
            if outcome.code != 0:
                raise SystemExit(outcome.sentence)

        timeout: seconds, None for as long as it takes. stall: seconds without progress after which to give up. The
        outcome's code is that of `distrain wait`: 0 succeeded, 100 failed, 101 not finished, 102 no such run, 103
        stopped.
        """

        def step(run: Run) -> int | None:
            progress = told_by(self.api, run).progress
            return progress.step if progress else None

        return wait_for(self.api, name, timeout, stall, progress=step)

    def events(self, name: str) -> "tuple[Event, ...]":
        """What the cluster has told about a run, its pods and its claims, the oldest first.

        [event.message for event in client.events("run1") if event.type == "Warning"]
        """
        return observe(self.api, name, events=True).events

    # Acting

    def plan(
        self,
        file: str | None = None,
        name: str | None = None,
        sets: Sequence[str] = (),
        settings: Mapping[str, str] | None = None,
        sweeps: Sequence[str] = (),
        group: str | None = None,
    ) -> "tuple[Plan, ...]":
        """What `submit` would make, checked here and by the cluster: one plan, or one for each point of a sweep.

            [plan] = client.plan(sets=["gpus=8"], settings={"model.name": "bert-base-uncased", "data.name": "imdb"})
            print(plan.request.nodes, plan.estimate.bytes, plan.warnings)

        file: the chart's values, or the trainer's settings. sets: as Helm's `--set`. settings: of the trainer, by
        dotted names. sweeps: `seed=1,2`. Raises SettingsError where the values are refused here, Conflict where
        there is a run of that name, Rejected where the cluster would refuse it, HelmMissing where there is no Helm.
        """
        values = read_values(file, sets, settings or {})
        plans = plan_runs(self.helm(), name or run_name(file), values, sweeps, group)
        return tuple(ask(self.api, self.helm(), plans))

    def submit(self, *plans: Plan) -> "tuple[str, ...]":
        """Makes the runs of plans; their names. Asks nobody.

            [name] = client.submit(*client.plan("run.yaml"))
            outcome = client.wait(name)

        Raises HelmError where a run could not be made and nothing is left of it, HalfMade where something is.
        """
        for plan in plans:
            submit(self.api, self.helm(), plan)
        return tuple(plan.name for plan in plans)

    def stop(self, name: str, wait: bool = False) -> None:
        """Asks a run to write a checkpoint and stop. wait: until its pods have ended. Raises Conflict where it has.

        client.stop("run1", wait=True)
        """
        control.stop(self.api, name, wait, say)

    def resume(self, name: str, sets: Sequence[str] = (), settings: Mapping[str, str] | None = None) -> None:
        """Continues a run that was stopped or has ended, from its newest checkpoint, also with other values.

        client.resume("run1", settings={"schedule.epochs": "5"})
        """
        if not sets and not settings:
            control.resume(self.api, self.helm, name, say)
            return
        found = control.changeable(self.api, name)
        plan = control.plan_change(self.helm(), name, tuple(sets), settings or {})
        control.apply_change(self.api, self.helm(), plan, found, say)

    def delete(self, name: str, checkpoints: bool = False) -> None:
        """Deletes a run; its checkpoints and results stay, unless `checkpoints` says otherwise.

        client.delete("run1")
        """
        control.delete(self.api, self.helm, name, checkpoints, say)

    def fetch(self, name: str, to: str | Path, parts: Sequence[str] = ()) -> "tuple[Fetched, ...]":
        """Copies what a run has written to this machine, each file checked by its SHA-256.

            files = client.fetch("run1", "results", ["report.html", "final"])

        parts: files and folders of the run's folder; empty for all but checkpoints and logs.
        """
        return tuple(fetch(self.api, name, Path(to), tuple(parts), say))

    def helm(self) -> Helm:
        """Helm, for the same cluster and namespace. Raises HelmMissing."""
        return find_helm(self.api.namespace, self.api.context, self.kubeconfig)
