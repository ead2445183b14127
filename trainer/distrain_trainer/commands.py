"""What each of the trainer's sub-commands does, which imports what it needs when it runs."""

import argparse
import json
import os
import sys
import textwrap
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from distrain_trainer import console
from distrain_trainer.errors import DistrainError, SettingsError
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.reader import read_settings
from distrain_trainer.settings.sections import ZERO

if TYPE_CHECKING:
    from distrain_trainer.launch.cluster_environment import ClusterEnvironment
    from distrain_trainer.launch.node import Node
    from distrain_trainer.launch.signals import Requests
    from distrain_trainer.storage.lock import FolderLock

LESS_AT_A_TIME = "lower --batch.tokens, set --precision bf16, or take a machine with more memory"
"""What helps an evaluation or a prediction that is out of memory."""


def train(chosen: argparse.Namespace, flags: dict[str, str]) -> int:
    """Trains a model; under a launcher (LOCAL_RANK is set) as one of its workers."""
    if "LOCAL_RANK" in os.environ:
        if chosen.overwrite:
            raise SettingsError("--overwrite cannot be used under a launcher; remove the old run's folder first")
        from distrain_trainer.__main__ import main as work

        work(worker_arguments(chosen, flags) + ["--resume"] * chosen.resume)

    # A lost node is told of in a sentence, not in stacks of C++. torch reads this when it is imported.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from distrain_trainer.launch import sagemaker
    from distrain_trainer.launch.signals import Requests
    from distrain_trainer.launch.termination import last_words

    requests = Requests()  # from here on SIGTERM is heard, which the first process of a container would not be
    settings = None
    try:
        if job := sagemaker.job_here():
            flags = job.flags(chosen.file, flags)
            chosen.processes = job.processes if chosen.processes is None else chosen.processes
            chosen.resume = not chosen.overwrite  # what SageMaker has brought back of the run is continued
        settings = read_settings(chosen.file, flags)
        with job.results_of(Path(settings.output_dir)) if job else nullcontext():
            return train_here(settings, chosen, worker_arguments(chosen, flags), requests)
    except ModuleNotFoundError:
        raise
    except Exception as error:
        folder = Path(settings.output_dir) if settings else None
        return last_words(error, requests.asked, folder, sagemaker.failure_file())


def worker_arguments(chosen: argparse.Namespace, flags: dict[str, str]) -> list[str]:
    """What each worker is told of the command line."""
    return ([chosen.file] if chosen.file else []) + [f"--{name}={value}" for name, value in flags.items()]


def train_here(settings: Settings, chosen: argparse.Namespace, arguments: list[str], requests: "Requests") -> int:
    """Makes sure that this machine can train, and supervises its workers. arguments: theirs. Raises DistrainError."""
    from distrain_trainer.launch.cluster_environment import ClusterEnvironment
    from distrain_trainer.launch.node import gpus_here, this_node
    from distrain_trainer.launch.preflight import check_locked_memory, check_rdma, check_shared_memory
    from distrain_trainer.reporting.trackers.choice import check_trackers
    from distrain_trainer.settings.deepspeed_file import processes_sentence
    from distrain_trainer.storage.lock import hold
    from distrain_trainer.storage.run_folder import check_writable, claim, is_finished, read_claim

    if chosen.resume and chosen.overwrite:
        raise SettingsError("--resume and --overwrite contradict each other; keep one of them")
    node, cluster = this_node(chosen.processes), ClusterEnvironment.read()
    console.configure(settings.log_level, node.title if node.count > 1 else "")
    if settings.strategy.kind == "single" and node.count * node.processes > 1:
        raise SettingsError(
            f"strategy.kind is single but there are {node.count * node.processes} processes; start one, or set "
            "strategy.kind to ddp"
        )
    if settings.elastic.min_nodes is not None and settings.elastic.min_nodes > node.count:
        raise SettingsError(
            f"elastic.min_nodes is {settings.elastic.min_nodes} but the run has {node.count} "
            f"node{'s' * (node.count > 1)}; lower it, or remove it to wait for all"
        )
    if chosen.overwrite and node.count > 1:
        raise SettingsError("--overwrite cannot be used on several nodes; remove the old run's folder first")
    if node.first and (sentence := processes_sentence(settings.strategy.config, node.count * node.processes)):
        console.say(sentence)
    check_shared_memory(settings, node.processes, gpus_here(cluster))
    check_rdma(cluster.rdma)
    check_locked_memory(node.count)
    folder = Path(settings.output_dir)
    if not node.first:  # node 0 holds the folder for all
        check_writable(folder)
        read_claim(settings, chosen.resume)
        return supervise_run(settings, chosen, arguments, requests, node, cluster, None)
    with hold(folder, cluster.run_of(settings.run_id), lambda: requests.asked) as lock:
        # Before anything slow: until then nobody else can begin.
        claimed = claim(settings, chosen.resume, chosen.overwrite)
        if claimed.settings.hub.repo is not None and not is_finished(claimed):
            from distrain_trainer.hub.access import check_before_training

            check_before_training(claimed.settings.hub, begun=claimed.stored is not None)
        if claimed.stored is None:
            check_trackers(claimed.settings.tracking)
        return supervise_run(settings, chosen, arguments, requests, node, cluster, lock)


def supervise_run(
    settings: Settings,
    chosen: argparse.Namespace,
    arguments: list[str],
    requests: "Requests",
    node: "Node",
    cluster: "ClusterEnvironment",
    lock: "FolderLock | None",
) -> int:
    """Supervises this node's workers in a folder that the run may use, and says what has become of a run that was to be
    replaced. lock: of node 0. Raises DistrainError."""
    from distrain_trainer.__main__ import main as work
    from distrain_trainer.__main__ import preload
    from distrain_trainer.hub.result import push_result
    from distrain_trainer.launch.supervisor import Job, supervise
    from distrain_trainer.storage.layout import holds_run, previous_runs
    from distrain_trainer.storage.previous import name_for_previous

    folder = Path(settings.output_dir)
    previous = name_for_previous(folder) if chosen.overwrite and holds_run(folder) else None
    by_hand = chosen.resume or chosen.overwrite or settings.run_id is None  # only one with an id is restarted unasked
    job = Job(node, cluster, settings, work, preload, arguments, chosen.resume, by_hand, lock, previous)
    try:
        code = supervise(job, requests)
    except DistrainError:
        if job.replaces:
            console.say(f"nothing was replaced: the run in {folder} is as it was, and --resume continues it")
        elif lock is not None and (kept := previous_runs(folder)):
            console.say(
                f"the run before is kept in {kept[-1]} until this one has finished; --resume continues this one"
            )
        raise
    if lock is not None:
        # A pod that is asked to leave meanwhile goes on until it is killed; another then pushes what is missing.
        push_result(settings, stop=lambda: requests.interrupted)
    return code


def preflight(chosen: argparse.Namespace, flags: dict[str, str]) -> int:
    """Checks this machine and the network between the run's nodes, and trains nothing; 1 where something fails."""
    from distrain_trainer.launch.cluster_environment import ClusterEnvironment
    from distrain_trainer.launch.network import check_network
    from distrain_trainer.launch.node import this_node
    from distrain_trainer.launch.signals import Requests
    from distrain_trainer.launch.supervisor import facts

    requests = Requests()
    settings = read_settings(chosen.file, flags)
    node, cluster = this_node(chosen.processes), ClusterEnvironment.read()
    console.configure(settings.log_level, node.title if node.count > 1 else "")
    volume = Path(settings.output_dir) if chosen.volume else None
    same = facts(node, cluster, settings)
    return int(check_network(node, cluster, settings, same, lambda: requests.asked, volume) > 0)


def evaluate(chosen: argparse.Namespace, flags: dict[str, str]) -> None:
    """Evaluates a trained model and prints its metrics as JSON."""
    from distrain_trainer.__main__ import quieten_libraries

    quieten_libraries()
    from distrain_trainer.inference.evaluate import evaluate_folder
    from distrain_trainer.training.out_of_memory import told

    with told(LESS_AT_A_TIME):
        found = evaluate_folder(chosen.path, chosen.file, flags, chosen.checkpoint)
    print(json.dumps(found, indent=2))


def predict(chosen: argparse.Namespace, flags: dict[str, str]) -> None:
    """Predicts for each line of text, or row of a file, one JSON object a line."""
    from distrain_trainer.__main__ import quieten_libraries

    quieten_libraries()
    from distrain_trainer.inference.predict import predict_folder
    from distrain_trainer.inference.sampling import Sampling
    from distrain_trainer.training.out_of_memory import told

    with told(LESS_AT_A_TIME):
        predict_folder(
            chosen.path,
            chosen.file,
            chosen.output,
            chosen.max_new_tokens,
            flags,
            chosen.checkpoint,
            chosen.keep_columns,
            Sampling.of(chosen),
        )


def merge(chosen: argparse.Namespace, flags: dict[str, str]) -> None:
    """Merges a trained adapter into its base model, and says how far the logits moved."""
    from distrain_trainer.__main__ import quieten_libraries

    quieten_libraries()
    from distrain_trainer.inference.merge import merge_folder

    print(json.dumps(merge_folder(chosen.path, chosen.output, chosen.dtype, chosen.checkpoint), indent=2))


def chat(chosen: argparse.Namespace, flags: dict[str, str]) -> None:
    """Talks with a trained chat model: answers each line that is typed, or piped in."""
    from distrain_trainer.__main__ import quieten_libraries

    quieten_libraries()
    from distrain_trainer.inference.chat import talk
    from distrain_trainer.inference.sampling import Sampling

    talk(chosen.path, chosen.max_new_tokens, chosen.checkpoint, Sampling.of(chosen), chosen.tools)


def track(chosen: argparse.Namespace, flags: dict[str, str]) -> None:
    """Sends to trackers what they lack of a run that is not under way."""
    from distrain_trainer.reporting.trackers.replay import track

    track(chosen.path, flags)


def preprocess(chosen: argparse.Namespace, flags: dict[str, str]) -> None:
    """Tokenizes the data ahead of time, into the cache that train reads."""
    settings = read_settings(chosen.file, flags)
    from distrain_trainer.__main__ import quieten_libraries

    quieten_libraries()
    from distrain_trainer.console import say
    from distrain_trainer.data.chat import use_template
    from distrain_trainer.data.mix import prepare_all
    from distrain_trainer.models.load import load_config, load_tokenizer, longest_row, resolve

    name, revision = resolve(settings.model)
    tokenizer = load_tokenizer(name, revision, settings.model.added_tokens or ())
    use_template(tokenizer, settings)
    data = prepare_all(settings, tokenizer, longest_row(settings, load_config(name, revision), tokenizer), say)
    print(json.dumps({"train_rows": len(data.train), "evaluation_rows": len(data.evaluation or ())} | data.counts))


def validate(chosen: argparse.Namespace, flags: dict[str, str]) -> None:
    """Checks settings without starting anything, and prints all of them as YAML."""
    import yaml

    from distrain_trainer.settings.deepspeed_file import read_user_config

    settings = read_settings(chosen.file, flags)
    print(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False), end="")
    if settings.strategy.kind in ZERO:
        show_deepspeed(settings, chosen.processes)
    if settings.strategy.config is not None:
        for note in read_user_config(settings.strategy.config).notes:
            print(note, file=sys.stderr)
    print("the settings are valid", file=sys.stderr)


def show_deepspeed(settings: Settings, processes: int | None) -> None:
    """Prints what DeepSpeed will be given, as a comment to the settings.

    Bucket sizes follow from the model, of whose files the headers are read.
    """
    from distrain_trainer.launch.node import this_node
    from distrain_trainer.memory.advice import read_model
    from distrain_trainer.memory.estimate import held
    from distrain_trainer.parallel.zero_config import generated, merged
    from distrain_trainer.settings.deepspeed_file import apply

    node = this_node(processes)
    world = node.count * node.processes
    sizes = held(read_model(settings), settings)
    config = generated(settings, world, sizes.trained, sizes.largest)
    print(f"# What DeepSpeed is given on {world} process{'es' * (world > 1)}:")
    print(textwrap.indent(json.dumps(merged(config, apply(settings)[1]), indent=2), "# "))


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

    file = Path(chosen.file)
    if file.exists():
        raise SettingsError(f"{file} exists and was not replaced; remove it, or give another name")
    try:
        rows = write_sample(file)
    except OSError as error:
        raise SettingsError(f"{file} cannot be written: {error.strerror}; give another file") from None
    print(f"{file}: {rows:,} rows", file=sys.stderr)


def show_version(chosen: argparse.Namespace, flags: dict[str, str]) -> None:
    """Prints the version of distrain, and with --json of all that the numbers depend on."""
    if chosen.json:
        from distrain_trainer.hardware.machine import versions

        print(json.dumps(versions()))
    else:
        print(version("distrain"))
