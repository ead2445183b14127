"""The commands that watch: list, status, logs, wait and events."""

import re
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from distrain_k8s.diagnose.causes import cause_of_error
from distrain_k8s.diagnose.redact import redacted_line
from distrain_k8s.errors import ClientError
from distrain_k8s.interrupts import interruptible
from distrain_k8s.kube.client import Api, connect
from distrain_k8s.kube.objects import GROUP_LABEL
from distrain_k8s.output import colours, console, print_document, print_rich, print_rows, say
from distrain_k8s.runs.find import find_run, observe
from distrain_k8s.runs.find import list_runs as list_all
from distrain_k8s.runs.jobs import find_job
from distrain_k8s.runs.status import Run, data_of, status_of
from distrain_k8s.runs.wait import ending, wait_for
from distrain_k8s.watch import events as event_data
from distrain_k8s.watch.lines import shown
from distrain_k8s.watch.logs import Line, Wanted, follow_logs, read_logs
from distrain_k8s.watch.progress import Told, told_by, told_by_all
from distrain_trainer.errors import SettingsError

REFRESH = 2.0
INTERRUPTED = 130
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
PREFIXES = ("36", "33", "32", "35", "34", "96", "93", "92", "95", "94")
"""Colours of the nodes' prefixes, in turn."""
Flags = Mapping[str, str]


def list_runs(arguments: Namespace, _: Flags) -> int:
    """`distrain list`."""
    with cluster(arguments) as api:

        def look() -> tuple[list[Run], dict[tuple[str, str], Told] | None]:
            group = f"{GROUP_LABEL}={arguments.group}" if arguments.group else ""
            labels = ",".join(filter(None, (arguments.selector, group)))
            runs = list_all(api, arguments.all, arguments.all_namespaces, labels)
            return runs, told_by_all(api, runs) if arguments.progress else None

        def view() -> Any:
            from distrain_k8s.output import table
            from distrain_k8s.watch.views import run_columns

            runs, told = look()
            wide = arguments.output == "wide"
            return table(runs, run_columns(arguments.all_namespaces, told), wide) if runs else nothing(api, arguments)

        if arguments.watch:
            live(view, lambda: False)
            return 0
        runs, told = look()
        columns = []
        if arguments.output in ("table", "wide"):
            from distrain_k8s.watch.views import run_columns

            columns = run_columns(arguments.all_namespaces, told)
        print_rows(runs, columns, arguments.output, lambda run: _data(run, told), nothing(api, arguments))
    return 0


def status(arguments: Namespace, _: Flags) -> int:
    """`distrain status RUN`."""
    with cluster(arguments) as api:
        seen: list[Run] = []

        def look() -> tuple[Run, Told]:
            run = find_run(api, arguments.run)
            seen[:] = [run]
            return run, told_by(api, run)

        def view() -> Any:
            from distrain_k8s.watch.views import run_view

            return run_view(*look())

        if arguments.watch:
            live(view, lambda: seen[0].phase.is_end)
        elif arguments.output in ("json", "yaml"):
            run, told = look()
            print_document(_data(run, {(run.namespace, run.name): told}), arguments.output)
        else:
            print_rich(view())
    return 0


def logs(arguments: Namespace, _: Flags) -> int:
    """`distrain logs RUN`."""
    with cluster(arguments) as api:
        job = find_job(api, arguments.run).job
        nodes = arguments.node or []
        if arguments.process is not None:
            nodes, local = [arguments.process // job.processes], arguments.process % job.processes
            if local:
                say(f"process {arguments.process} writes to a file of the run, together with others of its node")
                return previous(api, arguments.run, nodes[0], f"rank {arguments.process}:")
        if arguments.previous:
            return previous(api, arguments.run, nodes[0] if nodes else None)
        wanted = Wanted(tuple(nodes), _moment(arguments.since), arguments.tail)
        show = _printer(job.nodes > 1 and len(wanted.nodes) != 1, arguments.timestamps)
        if not arguments.follow:
            for line in read_logs(api, arguments.run, wanted, say):
                show(line)
            return 0
        for line in follow_logs(api, arguments.run, wanted, say):
            show(line)
        say(ending(find_run(api, arguments.run)))
    return 0


def previous(api: Api, run: str, node: int | None, holding: str = "") -> int:
    """`distrain logs RUN --previous`: lines of the run's own files. holding: only those that have this text."""
    from distrain_k8s.watch.fetch import earlier_logs

    for attempt, rank, text in earlier_logs(api, run, say, node):
        if holding not in text:
            continue
        print(f"attempt {attempt} node {rank} | {redacted_line(shown(text, colours(sys.stdout)))}")
    return 0


def wait(arguments: Namespace, _: Flags) -> int:
    """`distrain wait RUN`: its exit code says how the run has ended."""
    with cluster(arguments) as api:
        outcome = wait_for(
            api,
            arguments.run,
            _seconds(arguments.timeout, "--timeout"),
            _seconds(arguments.stall, "--stall"),
            say,
            progress=lambda run: progress_step(api, run),
        )
        say(outcome.sentence)
        return outcome.code


def events(arguments: Namespace, _: Flags) -> int:
    """`distrain events RUN`."""
    with cluster(arguments) as api:
        if arguments.follow:
            return follow_events(api, arguments)
        seen = observe(api, arguments.run, events=True)
        run = status_of(seen)
        if arguments.output in ("json", "yaml"):
            document = {"cause": data_of(run)["cause"], "events": [event_data.data_of(event) for event in seen.events]}
            print_document(document, arguments.output)
            return 0
        from distrain_k8s.watch.views import cause_view, event_columns

        columns = event_columns(seen.now)
        print_rows(seen.events, columns, arguments.output, event_data.data_of, f"no events about {run.name} are kept")
        if run.cause:
            print()
            print_rich(cause_view(run.cause))
    return 0


def follow_events(api: Api, arguments: Namespace) -> int:
    """Events as they come, until the run has ended."""
    told: set[tuple[str, str, str, int]] = set()
    while True:
        seen = observe(api, arguments.run, events=True)
        for event in seen.events:
            key = (event.kind, event.name, event.message, event.count)
            if key not in told:
                told.add(key)
                print(f"{event.last:%H:%M:%S}  {event.kind}/{event.name}  {event.reason}  {event.message}", flush=True)
        run = status_of(seen)
        if run.phase.is_end:
            say(ending(run))
            return 0
        time.sleep(REFRESH)


# Parts


@contextmanager
def cluster(arguments: Namespace) -> Iterator[Api]:
    """The cluster that a command asks. Ctrl-C leaves the run alone and says so."""
    api = connect(arguments.context, arguments.namespace, arguments.kubeconfig, say=say)
    try:
        with interruptible():
            yield api
    except KeyboardInterrupt:
        if name := getattr(arguments, "run", None):
            say(f"{name} goes on; distrain status {name} -n {api.namespace} shows it")
        raise
    finally:
        api.close()


def live(view: Callable[[], Any], over: Callable[[], bool]) -> None:
    """Shows a view and keeps it up to date, until it is over. Without a terminal, each view that differs."""
    out = console()
    if not out.is_terminal:
        last = ""
        while True:
            with out.capture() as captured:
                out.print(view())
            if (text := captured.get()) != last:
                print(text, flush=True)
                last = text
            if over():
                return
            time.sleep(REFRESH)
    from rich.live import Live

    with Live(console=out, auto_refresh=False, vertical_overflow="crop") as screen:
        while True:
            screen.update(view(), refresh=True)
            if over():
                return
            time.sleep(REFRESH)


def nothing(api: Api, arguments: Namespace) -> str:
    """What is said where a list is empty."""
    where = "in any namespace" if arguments.all_namespaces else f"in the namespace {api.namespace}"
    more = "" if arguments.all else "; --all also shows jobs that are not distrain's"
    return f"there are no runs {where}{more}"


def progress_step(api: Api, run: Run) -> int | None:
    """The step that a run has come to; None where that cannot be read now."""
    try:
        progress = told_by(api, run).progress
    except ClientError as error:
        say(cause_of_error(error).sentence)
        return None
    return progress.step if progress else None


def _data(run: Run, told: Mapping[tuple[str, str], Told] | None) -> dict[str, Any]:
    return data_of(run) | (told.get((run.namespace, run.name), Told()).data if told is not None else {})


def _printer(prefixed: bool, timestamps: bool) -> Callable[[Line], None]:
    """Prints a line: with the node that wrote it where there are several, and its time where that is wanted."""
    coloured = colours(sys.stdout)

    def show(line: Line) -> None:
        prefix = ""
        if prefixed:
            prefix = f"node {line.rank} | " if line.rank is not None else f"{line.pod} | "
            if coloured:
                prefix = f"\x1b[{PREFIXES[(line.rank or 0) % len(PREFIXES)]}m{prefix}\x1b[0m"
        if timestamps and line.time:
            prefix = f"{line.time:%Y-%m-%dT%H:%M:%S.%f}"[:-3] + f"Z {prefix}"
        print(f"{prefix}{redacted_line(shown(line.text, coloured))}", flush=True)

    return show


def _seconds(text: str | None, option: str) -> float | None:
    """`90s`, `10m`, `3h`, `2d` or a bare number of seconds. Raises SettingsError."""
    if text is None:
        return None
    if not (found := re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)):
        raise SettingsError(f"{option} is {text}, which is not a time; write 90s, 10m, 3h or 2d")
    return float(found[1]) * UNITS[found[2] or "s"]


def _moment(text: str | None) -> datetime | None:
    """A time, or how long ago it is. Raises SettingsError."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    except ValueError:
        seconds = _seconds(text, "--since")
        return datetime.now(UTC) - timedelta(seconds=seconds or 0)
