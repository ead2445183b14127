"""The command `distrain`: its command line, made from tables, and its exit codes.

What a sub-command needs is imported when that sub-command runs, so that help and errors come at once, and so that the
client does without the trainer's packages.
"""

import argparse
import difflib
import os
import signal
import sys
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from distrain_k8s import commands as client
from distrain_trainer import cli as trainer
from distrain_trainer.cli import Command, Parser
from distrain_trainer.errors import DistrainError, SettingsError

COMMANDS = (*trainer.COMMANDS, *client.COMMANDS)

INTERRUPTED = 130
"""What a shell makes of Ctrl-C."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Runs a sub-command and exits with its code; a user's mistake is one sentence on stderr."""
    try:
        code = run(sys.argv[1:] if arguments is None else arguments)
    except DistrainError as error:
        print(f"distrain: {error}", file=sys.stderr)
        code = error.exit_code
    except BrokenPipeError:  # the reader of our output, such as head, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Parses the arguments and runs what they ask for; the exit code. Raises DistrainError."""
    arguments = ["version"] if arguments == ["--version"] else command_first(arguments)
    command = next((command for command in COMMANDS if command.name == arguments[0]), None) if arguments else None
    parser = build_parser(command)
    if command is None:
        if arguments and not arguments[0].startswith("-"):
            raise SettingsError(unknown_command(arguments[0]))
        parser.parse_args(arguments)  # which answers --help, or says what is wrong
        raise AssertionError(arguments)
    if command.name != "train" and sys.platform != "win32":  # which listens for it; in the image it is blocked at first
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    flags, rest = settings_flags(command, arguments)
    chosen = parser.parse_args(rest)
    module, _, function = command.run.partition(":")
    try:
        code: int | None = getattr(import_module(module), function)(chosen, flags)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("distrain") or command in client.COMMANDS:
            raise
        raise SettingsError(
            f"distrain {command.name} needs {error.name}, which is not installed; run pip install 'distrain[trainer]'"
        ) from None
    return code or 0


def unknown_command(name: str) -> str:
    """The sentence about a word that is no command: the nearest one, or what was left out before a file."""
    if Path(name).is_file():
        return f"{name} is not a command; did you mean distrain train {name}?"
    close = difflib.get_close_matches(name, [command.name for command in COMMANDS], n=1)
    return f"{name} is not a command; " + (f"did you mean {close[0]}?" if close else "see distrain --help")


def settings_flags(command: Command, arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """The settings among a command's arguments, and the rest. A command that takes none does without their reader."""
    known = options([command])
    if command.takes_settings:
        from distrain_trainer.settings.reader import split_flags

        return split_flags(arguments, known)
    for argument in arguments:
        name = argument.partition("=")[0]
        if name.startswith("--") and name[2:] not in known and argument != "--":
            raise SettingsError(f"distrain {command.name} has no option {name}; see distrain {command.name} --help")
    return {}, arguments


def command_first(arguments: list[str]) -> list[str]:
    """The arguments with the sub-command before its options: `--gpus 8 plan` is `plan --gpus 8`.

    As they are where no sub-command is among them.
    """
    known = options(COMMANDS)
    place = 0
    while place < len(arguments):
        argument = arguments[place]
        if not argument.startswith("-"):
            return [argument, *arguments[:place], *arguments[place + 1 :]]
        name, equals, _ = argument.lstrip("-").partition("=")
        takes_value = known[name] if name in known else setting_takes_next(name, arguments[place + 1 :])
        place += 2 if takes_value and not equals else 1
    return arguments


def setting_takes_next(name: str, following: list[str]) -> bool:
    """Whether the first of the following arguments is the value of the setting `--name`."""
    from distrain_trainer.settings.reader import takes_next

    return takes_next(name, following)


def options(commands: Iterable[Command]) -> Mapping[str, bool]:
    """Name of every option, without its dashes -> whether a value follows it."""
    found = {"help": False, "h": False}
    for command in commands:
        for argument in command.arguments:
            if argument.is_option:
                found |= {name.lstrip("-"): argument.takes_value for name in argument.names}
    return found


def build_parser(command: Command | None) -> argparse.ArgumentParser:
    """The command line. command: the one whose arguments are wanted; the others are only named."""
    parser = Parser(
        prog="distrain",
        description="Fine-tune Hugging Face models: a run ends the same whatever dies on the way, and whatever number "
        "of processes it ran on.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version, as the command version does")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for other in COMMANDS:
        added = commands.add_parser(other.name, help=other.help, description=other.help, allow_abbrev=False)
        if other is not command:
            continue
        for argument in other.arguments:
            added.add_argument(*argument.names, **argument.options)
        if other.takes_settings:
            from distrain_trainer.settings.reference import settings_help

            added.formatter_class = argparse.RawDescriptionHelpFormatter
            added.epilog = settings_help()
    return parser


if __name__ == "__main__":
    main()
