"""The commands that act: render, submit, stop, resume, delete, fetch, open. Data goes to stdout, words to stderr."""

import sys
import tempfile
import webbrowser
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from distrain_k8s.cli import run as run_command
from distrain_k8s.diagnose.doctor import Line
from distrain_k8s.errors import NotFound
from distrain_k8s.helm import Helm, find_helm
from distrain_k8s.kube.client import Api, connect
from distrain_k8s.output import say
from distrain_k8s.render import render, settings_of
from distrain_k8s.runs import control
from distrain_k8s.runs.plan import Plan, show
from distrain_k8s.runs.submit import ask, confirm, plan_runs, submit
from distrain_k8s.runs.values import parsed, read_values, run_name
from distrain_k8s.watch.fetch import FINAL, METRICS, REPORT, fetch
from distrain_k8s.watch.transfer import Bar
from distrain_trainer.errors import SettingsError

Flags = Mapping[str, str]
DECLINED = 1
"""Exit code: the person was asked and said no."""


@contextmanager
def cluster(arguments: Namespace) -> Iterator[tuple[Api, partial[Helm]]]:
    """The cluster that a command asks, and how to find the Helm that means the same."""
    api = connect(arguments.context, arguments.namespace, arguments.kubeconfig, say=say)
    try:
        yield api, partial(find_helm, api.namespace, api.context, arguments.kubeconfig)
    finally:
        api.close()


def render_manifests(arguments: Namespace, flags: Flags) -> int:
    """`distrain render`: what would be submitted, checked on this machine; asks no cluster."""
    import yaml

    values = read_values(arguments.file, arguments.set or (), flags)
    documents = render(find_helm(arguments.namespace), arguments.name or run_name(arguments.file), values)
    settings_of(documents)
    yaml.safe_dump_all(documents, sys.stdout, sort_keys=False)
    return 0


def submit_runs(arguments: Namespace, flags: Flags) -> int:
    """`distrain submit`: prints the names of the runs."""
    sweeps = arguments.sweep or ()
    if arguments.logs and sweeps:
        raise SettingsError(
            "--logs follows one run, and a sweep has many; follow one of them with distrain logs RUN -f"
        )
    values = read_values(arguments.file, arguments.set or (), flags)
    with cluster(arguments) as (api, helm):
        plans = plan_runs(helm(), arguments.name or run_name(arguments.file), values, sweeps, arguments.group)
        plans = ask(api, helm(), plans)
        show(plans, where(api))
        if arguments.dry_run:
            import yaml

            yaml.safe_dump_all([d for plan in plans for d in plan.documents], sys.stdout, sort_keys=False)
            return 0
        if not arguments.yes and not confirm(f"submit {'it' if len(plans) == 1 else f'all {len(plans)}'}?"):
            say("nothing was submitted")
            return DECLINED
        for plan in plans:
            try:
                submit(api, helm(), plan)
            except KeyboardInterrupt:
                say(f"{plan.name} is submitted and goes on; distrain stop {plan.name} -n {api.namespace} stops it")
                raise
            print(plan.name, flush=True)
    return follow(arguments, plans)


def follow(arguments: Namespace, plans: list[Plan]) -> int:
    """What comes after a submission: the commands to type next, or `--logs` and `--wait`."""
    there = [f"{option}={value}" for option, value in same_cluster(arguments).items()]
    if not arguments.logs and not arguments.wait:
        shown = "".join(f" {part}" for part in there)
        name, group = plans[0].name, plans[0].request.group
        if len(plans) > 1:
            say(f"next: distrain list --group {group} --progress{shown}, distrain compare {group}{shown}")
            return 0
        say(f"next: distrain status {name}{shown}, distrain logs {name} -f{shown}, distrain wait {name}{shown}")
        return 0
    if arguments.logs:
        run_command(["logs", plans[0].name, "-f", *there])
    return max([run_command(["wait", plan.name, *there]) for plan in plans])


def same_cluster(arguments: Namespace) -> dict[str, str]:
    """The options that name the cluster, as they were given."""
    named = {"--context": arguments.context, "--namespace": arguments.namespace, "--kubeconfig": arguments.kubeconfig}
    return {option: value for option, value in named.items() if value}


def where(api: Api) -> str:
    """Namespace and cluster, in words."""
    return f"namespace {api.namespace} of {api.context or api.server}"


def stop(arguments: Namespace, _: Flags) -> int:
    """`distrain stop RUN...`."""
    with cluster(arguments) as (api, _helm):
        for name in arguments.runs:
            control.stop(api, name, False, say)
        for name in arguments.runs if arguments.wait else ():
            control.stop(api, name, True, say)
    return 0


def resume(arguments: Namespace, flags: Flags) -> int:
    """`distrain resume RUN`, as it was or with other values."""
    sets = tuple(arguments.set or ())
    with cluster(arguments) as (api, helm):
        if not sets and not flags:
            control.resume(api, helm, arguments.run, say)
            return 0
        found = control.changeable(api, arguments.run)
        plan = control.plan_change(helm(), arguments.run, sets, {name: parsed(text) for name, text in flags.items()})
        changes = control.changes(api, plan)
        if not changes:
            say("no setting of the trainer changes")
        for change in changes:
            say(f"  {change.name}: {change.before or 'unset'} -> {change.after or 'unset'}")
        if fixed := [change.name for change in changes if change.is_fixed]:
            say(f"a run that has begun refuses to resume with other {', '.join(fixed)}")
        if not arguments.yes and not confirm(f"resume {arguments.run} so?"):
            say(f"{arguments.run} stays as it is")
            return DECLINED
        control.apply_change(api, helm(), plan, found, say)
    return 0


def delete(arguments: Namespace, _: Flags) -> int:
    """`distrain delete RUN...`."""
    with cluster(arguments) as (api, helm):
        what = " and all their checkpoints and results" if arguments.checkpoints else "; checkpoints stay"
        if not arguments.yes and not confirm(f"delete {', '.join(arguments.runs)} in {where(api)}{what}?"):
            say("nothing was deleted")
            return DECLINED
        for name in arguments.runs:
            control.delete(api, helm, name, arguments.checkpoints, say)
    return 0


def fetch_files(arguments: Namespace, _: Flags) -> int:
    """`distrain fetch RUN`: prints the files that it has written."""
    parts = (
        (FINAL if arguments.final else ())
        + (REPORT if arguments.report else ())
        + (METRICS if arguments.metrics else ())
    )
    with cluster(arguments) as (api, _helm), Bar() as bar:
        done = fetch(api, arguments.run, Path(arguments.to or arguments.run), parts, say, bar)
    for file in done:
        print(file.file)
    return 0


def open_report(arguments: Namespace, _: Flags) -> int:
    """`distrain open RUN`: shows the report, and prints where it is."""
    with cluster(arguments) as (api, _helm), Bar() as bar:
        folder = Path(tempfile.mkdtemp(prefix="distrain-")) / arguments.run
        try:
            done = fetch(api, arguments.run, folder, REPORT, say, bar)
        except NotFound as error:
            if error.kind == "file":
                raise NotFound(f"{arguments.run} has no report yet: it is written when the run ends", "file") from None
            raise
    print(done[0].file)
    if not webbrowser.open(done[0].file.as_uri()):
        say("there is no browser here; open that file on a machine that has one")
    return 0


def doctor(arguments: Namespace, _: Flags) -> int:
    """`distrain doctor`: 0 where nothing fails."""
    from dataclasses import asdict

    from distrain_k8s.diagnose.doctor import examine
    from distrain_k8s.diagnose.dump import dump
    from distrain_k8s.output import Column, print_rows
    from distrain_k8s.watch.preflight import network_lines

    if not arguments.network and (arguments.file or arguments.set):
        raise SettingsError("FILE and --set describe the pods of doctor --network; add --network, or leave them out")
    ask_with = partial(connect, arguments.context, arguments.namespace, arguments.kubeconfig, say=say)
    lines = list(examine(ask_with, arguments.context, arguments.kubeconfig))
    if arguments.network:
        values = read_values(arguments.file, arguments.set or (), {})
        with cluster(arguments) as (api, helm):
            lines += network_lines(api, helm(), values, say)
    styles = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    columns: list[Column[Line]] = [
        Column("STATE", lambda line: line.state, style=lambda line: styles[line.state]),
        Column("ABOUT", lambda line: line.about),
        Column("FOUND", lambda line: line.sentence, gives_way=True, folds=True),
        Column("MEND", lambda line: line.mend, gives_way=True, folds=True),
    ]
    print_rows(lines, columns, arguments.output, asdict)
    if arguments.debug_dump:
        with cluster(arguments) as (api, _helm):
            dump(api, lines, Path(arguments.debug_dump), say)
    return int(any(line.state == "fail" for line in lines))


def compare_runs(arguments: Namespace, _: Flags) -> int:
    """`distrain compare GROUP`: a table, and a page with the curves."""
    from distrain_k8s.output import Column, print_rows
    from distrain_k8s.watch.compare import Compared, compare, gather, read_folder
    from distrain_k8s.watch.compare_page import page, row_of

    if all(Path(name).is_dir() for name in arguments.runs):
        runs = [read_folder(Path(name)) for name in arguments.runs]
    else:
        with cluster(arguments) as (api, _helm):
            runs = gather(api, arguments.runs, say)
    if not runs:
        raise NotFound(f"no run of {', '.join(arguments.runs)} has written anything yet", "run")
    found = compare(runs, arguments.metric)
    titles = ["RUN", found.metric.upper(), "AT STEP", "STATUS", "STEPS", *found.differs]

    def cell(index: int) -> Column[Compared]:
        return Column(titles[index], lambda run: row_of(run, found.differs)[index])

    def data(run: Compared) -> dict[str, object]:
        differs = {name: run.settings.get(name) for name in found.differs}
        return {"name": run.name, found.metric: run.score, "step": run.at, "status": run.status, "settings": differs}

    print_rows(found.runs, [cell(index) for index in range(len(titles))], arguments.output, data)
    target = Path(arguments.page or f"{Path(arguments.runs[0]).name}-compared.html")
    target.write_text(page(found, " ".join(arguments.runs)), encoding="utf-8")
    say(f"curves: {target}")
    return 0


def completion(arguments: Namespace, _: Flags) -> int:
    """`distrain completion bash|zsh|runs`: the script, or the names that it completes with."""
    from distrain_k8s.completion import script
    from distrain_k8s.runs.find import list_runs

    if arguments.shell != "runs":
        print(script(arguments.shell), end="")
        return 0
    with cluster(arguments) as (api, _helm):
        for run in list_runs(api.patient(2)):
            print(run.name)
    return 0
