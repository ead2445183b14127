"""The command `distrain`. Each sub-command imports what it needs when it runs, so that help and errors come at once."""

import argparse
import json
import os
import sys
import textwrap
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distrain_trainer.errors import DistrainError, SettingsError
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.reader import read_settings, split_flags, variable
from distrain_trainer.settings.sections import ZERO, Section

if TYPE_CHECKING:
    from distrain_trainer.launch.signals import Requests

USAGE_ERROR = SettingsError.exit_code
Command = Callable[[argparse.Namespace, dict[str, str]], Any]


def main(arguments: list[str] | None = None) -> None:
    """Runs a command and exits with its code; a user's mistake is one sentence on stderr."""
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = build_parser()
    command = next((argument for argument in arguments if not argument.startswith("-")), "")
    options = OPTIONS.get(command, {})
    flags, rest = split_flags(arguments, options | {"help": False, "version": False})
    chosen = parser.parse_args(rest)
    if command not in TAKES_SETTINGS and flags:
        parser.error(f"distrain {command} has no option --{next(iter(flags))}")
    try:
        code = chosen.run(chosen, flags)
    except DistrainError as error:
        print(f"distrain: {error}", file=sys.stderr)
        code = error.exit_code
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("distrain"):
            raise
        print(f"distrain: {error.name} is not installed; install distrain[trainer]", file=sys.stderr)
        code = USAGE_ERROR
    except BrokenPipeError:  # the reader of our output, such as head, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except KeyboardInterrupt:
        code = 130
    sys.exit(code or 0)


def train(chosen: argparse.Namespace, flags: dict[str, str]) -> int:
    """Trains a model; under a launcher (LOCAL_RANK is set) as one of its workers."""
    worker_arguments = [chosen.file] if chosen.file else []
    worker_arguments += [f"--{name}={value}" for name, value in flags.items()]
    if "LOCAL_RANK" in os.environ:
        if chosen.overwrite:
            raise SettingsError("--overwrite cannot be used under a launcher; remove the old run's folder first")
        from distrain_trainer.__main__ import main as work

        work(worker_arguments + ["--resume"] * chosen.resume)

    from distrain_trainer.launch.signals import Requests
    from distrain_trainer.launch.termination import last_words

    requests = Requests()  # from here on SIGTERM is heard, which the first process of a container would not be
    settings = None
    try:
        settings = read_settings(chosen.file, flags)
        return train_here(settings, chosen, worker_arguments, requests)
    except ModuleNotFoundError:
        raise
    except Exception as error:
        return last_words(error, requests.asked, Path(settings.output_dir) if settings else None)


def train_here(settings: Settings, chosen: argparse.Namespace, arguments: list[str], requests: "Requests") -> int:
    """Makes sure that this machine can train, and supervises its workers. arguments: theirs. Raises DistrainError."""
    from distrain_trainer.launch.node import gpus_here, this_node
    from distrain_trainer.launch.preflight import check_locked_memory, check_shared_memory
    from distrain_trainer.storage.run_folder import claim

    if chosen.resume and chosen.overwrite:
        raise SettingsError("--resume and --overwrite contradict each other; keep one of them")
    node = this_node(chosen.processes)
    if settings.strategy.kind == "single" and node.count * node.processes > 1:
        raise SettingsError(
            f"strategy.kind is single but there are {node.count * node.processes} processes; start one, or set "
            "strategy.kind to ddp"
        )
    if chosen.overwrite and node.count > 1:
        raise SettingsError("--overwrite cannot be used on several nodes; remove the old run's folder first")
    check_shared_memory(settings, node.processes, gpus_here())
    check_locked_memory(node.count)
    claim(settings, chosen.resume, chosen.overwrite)
    from distrain_trainer.launch.supervisor import Job, supervise

    return supervise(Job(node, settings, arguments, resume=chosen.resume, by_hand=chosen.resume), requests)


def evaluate(chosen: argparse.Namespace, flags: dict[str, str]) -> None:
    """Evaluates a trained model and prints its metrics as JSON."""
    from distrain_trainer.inference.evaluate import evaluate_folder

    print(json.dumps(evaluate_folder(chosen.path, chosen.file, flags), indent=2))


def predict(chosen: argparse.Namespace, flags: dict[str, str]) -> None:
    """Predicts for each line of text, or row of a file, one JSON object a line."""
    from distrain_trainer.inference.predict import predict_folder

    predict_folder(chosen.path, chosen.file, chosen.output, chosen.max_new_tokens)


def merge(chosen: argparse.Namespace, flags: dict[str, str]) -> None:
    """Merges a trained adapter into its base model, and says how far the logits moved."""
    from distrain_trainer.inference.merge import merge_folder

    print(json.dumps(merge_folder(chosen.path, chosen.output, chosen.dtype), indent=2))


def chat(chosen: argparse.Namespace, flags: dict[str, str]) -> None:
    """Talks with a trained chat model: answers each line that is typed, or piped in."""
    from distrain_trainer.__main__ import quieten_libraries

    quieten_libraries()
    from distrain_trainer.inference.chat import talk

    talk(chosen.path, chosen.max_new_tokens)


def preprocess(chosen: argparse.Namespace, flags: dict[str, str]) -> None:
    """Tokenizes the data ahead of time, into the cache that train reads."""
    settings = read_settings(chosen.file, flags)
    from distrain_trainer.__main__ import quieten_libraries

    quieten_libraries()
    from distrain_trainer.console import say
    from distrain_trainer.data.chat import use_template
    from distrain_trainer.data.tokens import prepare
    from distrain_trainer.models.load import load_config, load_tokenizer, longest_row, resolve

    name, revision = resolve(settings.model)
    tokenizer = load_tokenizer(name, revision)
    use_template(tokenizer, settings)
    data = prepare(settings, tokenizer, longest_row(settings, load_config(name, revision), tokenizer), say)
    print(json.dumps({"train_rows": len(data.train), "evaluation_rows": len(data.evaluation or ())} | data.counts))


def validate(chosen: argparse.Namespace, flags: dict[str, str]) -> None:
    """Checks settings without starting anything, and prints all of them as YAML."""
    import yaml

    settings = read_settings(chosen.file, flags)
    print(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False), end="")
    if settings.strategy.kind in ZERO:
        show_deepspeed(settings, chosen.processes)
    print("the settings are valid", file=sys.stderr)


def show_deepspeed(settings: Settings, processes: int | None) -> None:
    """Prints what DeepSpeed will be given, as a comment to the settings, and what a user's file has said in vain.

    Bucket sizes follow from the model, of whose files the headers are read.
    """
    from distrain_trainer.launch.node import this_node
    from distrain_trainer.memory.advice import read_model
    from distrain_trainer.memory.estimate import held
    from distrain_trainer.settings.deepspeed_file import apply, generated, merged, read_user_config

    node = this_node(processes)
    world = node.count * node.processes
    sizes = held(read_model(settings), settings)
    config = generated(settings, world, sizes.trained, sizes.largest)
    print(f"# What DeepSpeed is given on {world} process{'es' * (world > 1)}:")
    print(textwrap.indent(json.dumps(merged(config, apply(settings)[1]), indent=2), "# "))
    for note in read_user_config(settings.strategy.config).notes if settings.strategy.config else ():
        print(note, file=sys.stderr)


def plan(chosen: argparse.Namespace, flags: dict[str, str]) -> None:
    """Says how much memory a run takes on each GPU, by strategy, and whether it fits; needs no GPU."""
    from distrain_trainer.memory.advice import document, memory_of, read_model, show

    settings = read_settings(chosen.file, flags)
    if chosen.gpus < 1:
        raise SettingsError(f"--gpus is {chosen.gpus}; give 1 or more")
    about = document(read_model(settings), settings, chosen.gpus, memory_of(chosen.gpu_memory))
    if chosen.output == "json":
        print(json.dumps(about, indent=2))
    else:
        show(about)


def schema(chosen: argparse.Namespace, flags: dict[str, str]) -> None:
    """Prints the JSON schema of the settings."""
    print(json.dumps(Settings.model_json_schema(), indent=2))


def sample(chosen: argparse.Namespace, flags: dict[str, str]) -> None:
    """Writes the sample data set: docstrings of Python's standard library, labelled by their package."""
    from distrain_trainer.data.sample import write_sample

    rows = write_sample(chosen.file)
    print(f"{chosen.file}: {rows:,} rows", file=sys.stderr)


def show_version(chosen: argparse.Namespace, flags: dict[str, str]) -> None:
    """Prints the version of distrain, and with --json of all that the numbers depend on."""
    if chosen.json:
        from distrain_trainer.hardware.machine import versions

        print(json.dumps(versions()))
    else:
        print(version("distrain"))


OPTIONS: dict[str, dict[str, bool]] = {
    "train": {"processes": True, "resume": False, "overwrite": False},
    "validate": {"processes": True},
    "predict": {"output": True, "max-new-tokens": True},
    "plan": {"gpus": True, "gpu-memory": True, "output": True},
    "merge": {"output": True, "dtype": True},
    "chat": {"max-new-tokens": True},
    "version": {"json": False},
}
"""Each command's own options, and whether they take a value; all others are settings."""

TAKES_SETTINGS = {"train", "evaluate", "preprocess", "validate", "plan"}


def build_parser() -> argparse.ArgumentParser:
    """The command line, described for --help."""
    parser = argparse.ArgumentParser(
        prog="distrain",
        description="Fine-tune Hugging Face models: a run ends the same whatever dies on the way, and whatever number "
        "of processes it ran on.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, run: Command, **extra: Any) -> argparse.ArgumentParser:
        text = (run.__doc__ or "").strip()
        command = commands.add_parser(name, help=text, description=text, allow_abbrev=False, **extra)
        command.set_defaults(run=run)
        return command

    reference: dict[str, Any] = {
        "epilog": settings_help(),
        "formatter_class": argparse.RawDescriptionHelpFormatter,
        "usage": None,
    }
    settings_file: dict[str, Any] = {"nargs": "?", "metavar": "FILE", "help": "settings as YAML or JSON"}
    trained: dict[str, Any] = {
        "metavar": "PATH",
        "help": "a run's folder, its final/, its checkpoint-best/ or one of its checkpoints",
    }

    command = add("train", train, **reference)
    command.add_argument("file", **settings_file)
    command.add_argument("--processes", type=int, metavar="N", help="worker processes (default: one a GPU, else one)")
    command.add_argument("--resume", action="store_true", help="continue the run in output_dir; start if there is none")
    command.add_argument("--overwrite", action="store_true", help="remove the run that is in output_dir")

    command = add("evaluate", evaluate)
    command.add_argument("path", **trained)
    command.add_argument("file", nargs="?", metavar="FILE", help="data to evaluate on (default: the run's own)")

    command = add("predict", predict)
    command.add_argument("path", **trained)
    command.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="lines of text, or a data file (default: stdin; for chat a JSON line each)",
    )
    command.add_argument("--output", metavar="FILE", help="where the JSON lines go (default: stdout)")
    command.add_argument("--max-new-tokens", type=int, default=64, metavar="N", help="tokens of an answer at most")

    command = add("chat", chat)
    command.add_argument("path", **trained)
    command.add_argument("--max-new-tokens", type=int, default=512, metavar="N", help="tokens of an answer at most")

    command = add("merge", merge)
    command.add_argument("path", **trained)
    command.add_argument("--output", metavar="DIR", help="folder to write (default: merged, beside the adapter's)")
    command.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), default="fp32", help="of the merged weights")

    add("preprocess", preprocess, **reference).add_argument("file", **settings_file)
    command = add("validate", validate, **reference)
    command.add_argument("file", **settings_file)
    command.add_argument("--processes", type=int, metavar="N", help="as train has it; DeepSpeed is told their number")
    command = add("plan", plan, **reference)
    command.add_argument("file", **settings_file)
    command.add_argument("--gpus", type=int, default=1, metavar="N", help="GPUs of the run (default: 1)")
    command.add_argument("--gpu-memory", default="80GB", metavar="SIZE", help="80GB, or a GPU such as a100-40gb")
    command.add_argument("-o", "--output", choices=["table", "json"], default="table", help="how it is printed")
    add("schema", schema)
    add("sample", sample).add_argument("file", metavar="FILE", help="JSON lines to write")
    add("version", show_version).add_argument("--json", action="store_true", help="with the packages it stands on")
    return parser


def settings_help() -> str:
    """The reference of all settings, for --help."""
    lines = [
        "settings: --name value on the command line, over the environment, over FILE, over the default",
        f"          --batch.tokens 8192 is {variable('batch.tokens')}=8192 is `batch: {{tokens: 8192}}`",
        "",
    ]
    for name, default, description in setting_rows(Settings):
        lines.append(f"  --{name} [{default}]")
        lines += textwrap.wrap(description, 92, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def setting_rows(section: type[Section], prefix: str = "") -> list[tuple[str, Any, str]]:
    """(dotted name, default, description) of every setting."""
    rows: list[tuple[str, Any, str]] = []
    for name, field in section.model_fields.items():
        if isinstance(field.default, Section):
            rows += setting_rows(type(field.default), f"{prefix}{name}.")
        else:
            rows.append((prefix + name, field.default, " ".join((field.description or "").split())))
    return rows


if __name__ == "__main__":
    main()
