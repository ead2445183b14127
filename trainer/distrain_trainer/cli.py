"""The trainer's sub-commands: the table from which `distrain` makes its command line.

Importing it imports nothing else of the trainer: what a command needs is imported when it runs.
"""

import argparse
from dataclasses import dataclass, field
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """A command line whose faults are one sentence: SettingsError, where argparse prints its usage and exits with 2."""

    def error(self, message: str) -> NoReturn:
        from distrain_trainer.errors import SettingsError

        raise SettingsError(f"{message.removeprefix('argument ')}; see {self.prog} --help")


@dataclass(frozen=True)
class Argument:
    """One argument: its names (a single one without dashes is a position) and what argparse is told about it."""

    names: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def is_option(self) -> bool:
        """Whether it is given by name."""
        return self.names[0].startswith("-")

    @property
    def takes_value(self) -> bool:
        """Whether a value follows the name."""
        return self.options.get("action") != "store_true"


@dataclass(frozen=True)
class Command:
    """A sub-command. run: `module:function`, called with argparse's namespace and the settings as `{name: text}`; it
    returns the exit code, or None for 0. takes_settings: whether `--section.name value` is taken."""

    name: str
    help: str
    run: str
    arguments: tuple[Argument, ...] = ()
    takes_settings: bool = False


def argument(*names: str, **options: Any) -> Argument:
    """An argument, written as for argparse."""
    return Argument(names, options)


FILE = argument("file", nargs="?", metavar="FILE", help="settings as YAML or JSON")
PATH = argument(
    "path", metavar="PATH", help="a run's folder, its final/, its checkpoint-best/ or one of its checkpoints"
)
ANY_MODEL = argument(
    "path", metavar="PATH", help="a run's folder or one of its models; with --task any other, in a folder or on the Hub"
)

CHECKPOINT = argument(
    "--checkpoint",
    metavar="WHICH",
    help="model of a run: final, best, newest or the number of a step (default: the first of these that is there)",
)

SAMPLING = (
    argument("--temperature", type=float, default=0.0, metavar="T", help="draw tokens (default: 0, the likeliest one)"),
    argument("--top-p", type=float, default=1.0, metavar="P", help="draw from the likeliest, up to this probability"),
    argument("--top-k", type=int, default=0, metavar="N", help="draw from the N likeliest (default: 0, from all)"),
    argument("--repetition-penalty", type=float, default=1.0, metavar="X", help="above 1: fewer repetitions"),
    argument("--seed", type=int, default=42, metavar="N", help="of what is drawn (default: 42)"),
)

COMMANDS = (
    Command(
        "train",
        "Trains a model; under a launcher (LOCAL_RANK is set) as one of its workers.",
        "distrain_trainer.commands:train",
        (
            FILE,
            argument("--processes", type=int, metavar="N", help="worker processes (default: one per GPU, else one)"),
            argument("--resume", action="store_true", help="resume the run in output_dir; start if there is none"),
            argument("--overwrite", action="store_true", help="replace the run in output_dir when this one is done"),
        ),
        takes_settings=True,
    ),
    Command(
        "preflight",
        "Checks this machine and the network between a run's nodes, one JSON line per check; trains nothing.",
        "distrain_trainer.commands:preflight",
        (
            FILE,
            argument("--processes", type=int, metavar="N", help="as for train"),
            argument("--volume", action="store_true", help="also whether all nodes can write output_dir"),
        ),
        takes_settings=True,
    ),
    Command(
        "evaluate",
        "Evaluates a trained model and prints its metrics as JSON.",
        "distrain_trainer.commands:evaluate",
        (
            ANY_MODEL,
            argument("file", nargs="?", metavar="FILE", help="data to evaluate on (default: the run's own)"),
            CHECKPOINT,
        ),
        takes_settings=True,
    ),
    Command(
        "predict",
        "Predicts for each line of text, or row of a file, one JSON object per line.",
        "distrain_trainer.commands:predict",
        (
            ANY_MODEL,
            argument(
                "file",
                nargs="?",
                metavar="FILE",
                help="lines of text, or a data file (default: stdin; for chat one JSON object per line)",
            ),
            argument("--output", metavar="FILE", help="where the JSON lines go (default: stdout)"),
            argument("--keep-columns", action="store_true", help="add each row of FILE to its prediction, as `row`"),
            argument(
                "--max-new-tokens",
                type=int,
                metavar="N",
                help="tokens of an answer at most (default: 64; for sequence-to-sequence data.max_target_length)",
            ),
            *SAMPLING,
            CHECKPOINT,
        ),
        takes_settings=True,
    ),
    Command(
        "chat",
        "Talks with a trained chat model: answers each line that is typed, or piped in.",
        "distrain_trainer.commands:chat",
        (
            PATH,
            argument("--max-new-tokens", type=int, default=512, metavar="N", help="tokens of an answer at most"),
            argument("--tools", metavar="FILE", help="JSON list of the tools that the model may call"),
            *SAMPLING,
            CHECKPOINT,
        ),
    ),
    Command(
        "merge",
        "Merges a trained adapter into its base model, and says how far the logits moved.",
        "distrain_trainer.commands:merge",
        (
            PATH,
            argument("--output", metavar="DIR", help="folder to write (default: merged, beside the adapter's)"),
            argument("--dtype", choices=("fp32", "bf16", "fp16"), default="fp32", help="of the merged weights"),
            CHECKPOINT,
        ),
    ),
    Command(
        "track",
        "Sends to TensorBoard, W&B or MLflow what they lack of a run that is not under way.",
        "distrain_trainer.commands:track",
        (argument("path", metavar="RUN", help="a run's folder"),),
        takes_settings=True,
    ),
    Command(
        "preprocess",
        "Tokenizes the data ahead of time, into the cache that train reads.",
        "distrain_trainer.commands:preprocess",
        (FILE,),
        takes_settings=True,
    ),
    Command(
        "validate",
        "Checks settings without starting anything, and prints all of them as YAML.",
        "distrain_trainer.commands:validate",
        (
            FILE,
            argument("--processes", type=int, metavar="N", help="as for train; DeepSpeed is told their number"),
        ),
        takes_settings=True,
    ),
    Command(
        "plan",
        "Says how much memory a run takes on each GPU, by strategy, and whether it fits; needs no GPU.",
        "distrain_trainer.commands:plan",
        (
            FILE,
            argument("--gpus", type=int, default=1, metavar="N", help="GPUs of the run (default: 1)"),
            argument("--gpu-memory", default="80GB", metavar="SIZE", help="80GB, or a GPU such as a100-40gb"),
            argument("-o", "--output", choices=["table", "json"], default="table", help="how it is printed"),
        ),
        takes_settings=True,
    ),
    Command(
        "push",
        "Pushes a trained model to the Hugging Face Hub, with its report and model card.",
        "distrain_trainer.hub_commands:push",
        (
            PATH,
            argument("repo", metavar="REPO", help="owner/name; made private where it is not there yet"),
            argument("--public", action="store_true", help="make it public, or push to one that is"),
            argument("--best", action="store_true", help="the best model of a run, as --checkpoint best"),
            CHECKPOINT,
        ),
    ),
    Command(
        "push-dataset",
        "Pushes local files to the Hugging Face Hub as a data set that data.name can name.",
        "distrain_trainer.hub_commands:push_dataset",
        (
            argument("files", nargs="+", metavar="FILES", help="files or globs, or one folder written by save_to_disk"),
            argument("repo", metavar="REPO", help="owner/name; made private where it is not there yet"),
            argument("--public", action="store_true", help="make it public, or push to one that is"),
            argument("--config", default="default", metavar="NAME", help="configuration of the data set"),
        ),
    ),
    Command(
        "download",
        "Fetches a model and data sets into the cache, after which HF_HUB_OFFLINE=1 distrain train needs no network.",
        "distrain_trainer.hub_commands:download",
        (
            argument("model", metavar="MODEL", help="on the Hub; or a run's settings file, for all that it names"),
            argument("datasets", nargs="*", metavar="DATASET", help="on the Hub"),
            argument("--revision", help="branch, tag or commit of MODEL (default: the newest)"),
            argument("--config", metavar="NAME", help="configuration of the data sets"),
        ),
    ),
    Command(
        "convert",
        "Turns a configuration of axolotl, TRL, HF Trainer or accelerate, or such a command, into settings as YAML.",
        "distrain_trainer.convert.command:run",
        (
            argument("file", metavar="FILE", help="YAML, JSON or a shell script; - for stdin"),
            argument(
                "--from",
                dest="program",
                choices=("axolotl", "trainer", "trl", "accelerate"),
                help="whose configuration it is (default: what its keys tell)",
            ),
            argument(
                "--processes", type=int, metavar="N", help="processes that it ran on (default: what the file says)"
            ),
        ),
    ),
    Command("schema", "Prints the JSON schema of the settings.", "distrain_trainer.commands:schema"),
    Command(
        "sample",
        "Writes the sample data set: docstrings of Python's standard library, labelled by their package.",
        "distrain_trainer.commands:sample",
        (argument("file", metavar="FILE", help="JSON lines to write"),),
    ),
    Command(
        "version",
        "Prints the version of distrain, and with --json of all that the numbers depend on.",
        "distrain_trainer.commands:show_version",
        (argument("--json", action="store_true", help="with the packages that the numbers depend on"),),
    ),
)
