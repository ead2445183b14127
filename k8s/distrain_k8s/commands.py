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


def _command(name: str, help: str, run: str, *arguments: Argument) -> Command:
    return Command(name, help, f"distrain_k8s.{run}", (*arguments, *CLUSTER))


WATCHING = (
    _command(
        "list",
        "Lists the runs of a namespace, with their phase and what holds them up.",
        "watch.commands:list_runs",
        argument("--all", action="store_true", help="also jobs that were not made from distrain's chart"),
        argument("-A", "--all-namespaces", action="store_true", help="of all namespaces"),
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
COMMANDS = WATCHING
