"""The client's sub-commands: the table from which `distrain` makes its command line, beside the trainer's.

Importing it imports nothing else of the client: what a command needs is imported when it runs.
"""

from distrain_trainer.cli import Argument, Command, argument

CLUSTER = (
    argument("--context", metavar="NAME", help="context of the kubeconfig (default: the current one)"),
    argument("-n", "--namespace", metavar="NAME", help="namespace (default: the context's)"),
    argument("--kubeconfig", metavar="FILE", help="default: $KUBECONFIG, else ~/.kube/config"),
)
"""Options of every command that asks the cluster."""
RUN = argument("run", metavar="RUN", help="the run's name")
OUTPUT = argument(
    "-o", "--output", choices=["table", "wide", "json", "yaml"], default="table", help="how it is printed"
)


def _command(name: str, help: str, run: str, *arguments: Argument, takes_settings: bool = False) -> Command:
    return Command(name, help, f"distrain_k8s.{run}", (*arguments, *CLUSTER), takes_settings)


WATCHING = (
    _command(
        "list",
        "Lists the runs of a namespace, with their phase and what holds them up.",
        "watch.commands:list_runs",
        argument("--all", action="store_true", help="also jobs that were not made from distrain's chart"),
        argument("-A", "--all-namespaces", action="store_true", help="of all namespaces"),
        argument("--group", metavar="NAME", help="only runs of this group, such as those of a sweep"),
        argument("-l", "--selector", metavar="LABELS", default="", help="only runs with these labels: team=nlp"),
        argument("--progress", action="store_true", help="also step, loss, speed and time left, from the runs' logs"),
        argument("-w", "--watch", action="store_true", help="keep the table up to date until Ctrl-C"),
        OUTPUT,
    ),
    _command(
        "status",
        "Shows one run: phase, cause and mend, progress and pods.",
        "watch.commands:status",
        RUN,
        argument("-w", "--watch", action="store_true", help="keep it up to date until the run ends"),
        OUTPUT,
    ),
    _command(
        "logs",
        "Prints the logs of a run's pods.",
        "watch.commands:logs",
        RUN,
        argument("-f", "--follow", action="store_true", help="go on until the run ends, also over restarts"),
        argument("--node", type=int, action="append", metavar="N", help="of this node only; may be given again"),
        argument("--process", type=int, metavar="RANK", help="what this process wrote only"),
        argument(
            "--since", metavar="TIME", help="newer lines only: 90s, 10m, 3h, or a time such as 2026-01-31T12:00:00Z"
        ),
        argument("--tail", type=int, metavar="N", help="the last N lines of each pod"),
        argument("--previous", action="store_true", help="of earlier attempts, from the files of the run"),
        argument("--timestamps", action="store_true", help="the time before each line"),
    ),
    _command(
        "wait",
        "Waits until a run ends; exits with 0 if it has succeeded.",
        "watch.commands:wait",
        RUN,
        argument("--timeout", metavar="TIME", help="give up after so long, with 101: 90s, 10m, 3h"),
        argument("--stall", metavar="TIME", help="give up when there was no progress for so long, with 101"),
    ),
    _command(
        "events",
        "Shows what the cluster has told about a run, and what it means.",
        "watch.commands:events",
        RUN,
        argument("-f", "--follow", action="store_true", help="go on until the run ends"),
        OUTPUT,
    ),
)
RUNS = argument("runs", nargs="+", metavar="RUN", help="names of runs")
FILE = argument("file", nargs="?", metavar="FILE", help="the chart's values, or settings as for distrain train")
NAME = argument("--name", metavar="NAME", help="the run's name (default: after FILE, with five characters more)")
SET = argument("--set", action="append", metavar="NAME=VALUE", help="a value of the chart, as Helm's --set: gpus=8")
YES = argument("-y", "--yes", action="store_true", help="do not ask")
ACTING = (
    _command(
        "submit",
        "Submits a run, or every point of a sweep, after showing what it takes and asking.",
        "actions:submit_runs",
        FILE,
        NAME,
        SET,
        argument(
            "--sweep",
            action="append",
            metavar="NAME=A,B",
            help="one run for each value: optimizer.learning_rate=1e-5,3e-5",
        ),
        argument("--group", metavar="NAME", help="group of the runs (default for a sweep: its name)"),
        YES,
        argument("--dry-run", action="store_true", help="ask the cluster, print the manifests and make nothing"),
        argument("--wait", action="store_true", help="until it ends"),
        argument("--logs", action="store_true", help="follow the run's logs, then exit as distrain wait"),
        takes_settings=True,
    ),
    _command(
        "render",
        "Prints the manifests of a run, checked on this machine; asks no cluster.",
        "actions:render_manifests",
        FILE,
        NAME,
        SET,
        takes_settings=True,
    ),
    _command(
        "stop",
        "Asks runs to write a checkpoint and stop.",
        "actions:stop",
        RUNS,
        argument("--wait", action="store_true", help="until their pods have ended"),
    ),
    _command(
        "resume",
        "Continues a run that was stopped or has ended, from its newest checkpoint, also with other values.",
        "actions:resume",
        RUN,
        SET,
        YES,
        takes_settings=True,
    ),
    _command(
        "delete",
        "Deletes runs; their checkpoints and results stay.",
        "actions:delete",
        RUNS,
        argument("--checkpoints", action="store_true", help="also their checkpoints and results"),
        YES,
    ),
    _command(
        "fetch",
        "Copies what a run has written to this machine; without options, all but checkpoints.",
        "actions:fetch_files",
        RUN,
        argument("--final", action="store_true", help="the model"),
        argument("--report", action="store_true", help="report.html"),
        argument("--metrics", action="store_true", help="metrics.jsonl, training_info.json, settings.json"),
        argument("--to", metavar="DIR", help="folder to write to (default: the run's name)"),
    ),
    _command("open", "Shows the report of a run in the browser.", "actions:open_report", RUN),
    _command(
        "compare",
        "Compares runs: a table with the best first, and a page with their curves.",
        "actions:compare_runs",
        argument("runs", nargs="+", metavar="RUN", help="groups, runs, or folders that were fetched"),
        argument("--metric", metavar="NAME", help="what to rank by, such as eval_accuracy or loss"),
        argument("--page", metavar="FILE", help="where the page goes (default: the first name, -compared.html)"),
        OUTPUT,
    ),
    _command(
        "doctor",
        "Says whether runs can be submitted from here and train there, and what to mend.",
        "actions:doctor",
        FILE,
        SET,
        argument(
            "--network",
            action="store_true",
            help="also start two pods or more, as FILE and --set describe them, that measure the network between them",
        ),
        argument("--debug-dump", metavar="FILE", help="also write a .tar.gz of the namespace, without secrets"),
        OUTPUT,
    ),
    _command(
        "completion",
        "Prints the completion for bash or zsh.",
        "actions:completion",
        argument("shell", choices=["bash", "zsh", "runs"], help="runs: only the names of the runs"),
    ),
)
COMMANDS = (*ACTING, *WATCHING)
