"""Compares runs: what they differ in, how well they did, and their curves on one page."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distrain_k8s.errors import ClientError, NotFound
from distrain_k8s.kube.client import Api
from distrain_k8s.kube.objects import GROUP_LABEL
from distrain_k8s.kube.resources import PYTORCHJOBS, TRAINJOBS
from distrain_k8s.watch.fetch import open_reader
from distrain_trainer.errors import SettingsError

HIGHER = ("accuracy", "f1", "precision", "recall", "token_accuracy", "mcc", "auc")
"""Metrics of which more is better."""
PREFERRED = ("eval_accuracy", "eval_f1_macro", "eval_loss", "loss")
"""What runs are ranked by where nothing else is said and they do not say it themselves."""
IGNORED = ("run_id", "output_dir", "data.cache")


@dataclass(frozen=True)
class Compared:
    """A run. settings: by dotted names. lines: of metrics.jsonl. score: its best value of the metric that runs are
    ranked by, and `at` the step of it; None where it has none."""

    name: str
    status: str
    settings: Mapping[str, Any]
    lines: Sequence[Mapping[str, Any]]
    info: Mapping[str, Any]
    score: float | None = None
    at: int | None = None

    @property
    def step(self) -> int:
        """The last step that it has logged."""
        return max((line.get("step") or 0 for line in self.lines), default=0)


@dataclass(frozen=True)
class Comparison:
    """runs: the best first. metric: what they are ranked by. differs: settings that are not the same in all of them."""

    runs: tuple[Compared, ...]
    metric: str
    differs: tuple[str, ...]


def read_files(name: str, files: Mapping[str, bytes]) -> Compared:
    """A run from its own files: settings.json, metrics.jsonl, training_info.json. Half a last line is passed over."""
    settings = json.loads(files.get("settings.json") or b"{}")
    info = json.loads(files.get("training_info.json") or b"{}")
    lines = []
    for text in (files.get("metrics.jsonl") or b"").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return Compared(name, info.get("status") or "not started", flat(settings.get("settings") or {}), lines, info)


def read_folder(folder: Path) -> Compared:
    """A run that was fetched, or that was trained here."""
    names = ("settings.json", "metrics.jsonl", "training_info.json")
    files = {name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}
    if not files:
        raise NotFound(f"{folder} holds no run: neither settings.json nor metrics.jsonl", "folder", str(folder))
    return read_files(folder.name, files)


def read_run(api: Api, name: str, say: Callable[[str], None]) -> Compared:
    """A run of the cluster. Raises NotFound."""
    with open_reader(api, name, say) as reader:
        there = reader.files()
        names = [n for n in ("settings.json", "metrics.jsonl", "training_info.json") if n in there]
        return read_files(name, {n: reader.read(n) for n in names})


def runs_of(api: Api, group: str) -> list[str]:
    """Names of a group's runs."""
    found = []
    for resource in (PYTORCHJOBS, TRAINJOBS):
        try:
            found += [job["metadata"]["name"] for job in api.list(resource, labels=f"{GROUP_LABEL}={group}")]
        except NotFound:
            continue
    return sorted(found)


def gather(api: Api, names: Sequence[str], say: Callable[[str], None]) -> list[Compared]:
    """The runs of groups, runs by their names, and folders. What has not written anything yet is said and left out."""
    found = []
    for name in names:
        if Path(name).is_dir():
            found.append(read_folder(Path(name)))
            continue
        for run in runs_of(api, name) or [name]:
            try:
                found.append(read_run(api, run, say))
            except NotFound as error:
                if run == name:
                    raise
                say(f"{run} is left out: {error}")
            except ClientError as error:
                say(f"{run} is left out: {error}")
    return found


def compare(runs: Sequence[Compared], metric: str | None = None) -> Comparison:
    """Ranks runs. metric: `eval_accuracy`, `loss` and so on; by default what the runs call their best, or what all of
    them have. Raises SettingsError where there is nothing to compare."""
    measured = [{name for line in run.lines for name in line if is_number(line[name])} for run in runs]
    known = set.union(*measured) if measured else set()
    if metric is None:
        own = [(run.info.get("best") or {}).get("metric") for run in runs]
        candidates = [*(name for name in own if name), *PREFERRED]
        shared = set.intersection(*(names for names in measured if names)) if known else set()
        metric = next((name for name in candidates if name in shared), None)
        metric = metric or next((name for name in candidates if name in known), None)
    if metric is None or metric not in known:
        shown = ", ".join(sorted(name for name in known if name not in ("step", "epoch"))) or "nothing yet"
        wanted = f"{metric} is not among" if metric else "there is nothing to rank by in"
        raise SettingsError(f"{wanted} what the runs have logged: {shown}")
    scored = [with_score(run, metric) for run in runs]
    sign = -1 if is_higher_better(metric) else 1
    ranked = sorted(scored, key=lambda run: (run.score is None, sign * (run.score or 0.0), run.name))
    return Comparison(tuple(ranked), metric, tuple(differing(run.settings for run in runs)))


def with_score(run: Compared, metric: str) -> Compared:
    """The run with its best value."""
    values = [(line[metric], line.get("step")) for line in run.lines if is_number(line.get(metric))]
    if not values:
        return run
    pick = max if is_higher_better(metric) else min
    score, at = pick(values, key=lambda pair: pair[0])
    return Compared(run.name, run.status, run.settings, run.lines, run.info, float(score), at)


def is_higher_better(metric: str) -> bool:
    """Whether more of a metric is better: accuracy, but not loss or perplexity."""
    name = metric.removeprefix("eval_")
    return any(name == word or name.startswith(f"{word}_") for word in HIGHER)


def is_number(value: Any) -> bool:
    """Whether it can be ranked."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def differing(settings: Iterable[Mapping[str, Any]]) -> list[str]:
    """Names of settings that are not the same in all runs."""
    every = list(settings)
    names = dict.fromkeys(name for one in every for name in one)
    return [
        name
        for name in names
        if name not in IGNORED and len({json.dumps(one.get(name), sort_keys=True) for one in every}) > 1
    ]


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names."""
    values: dict[str, Any] = {}
    for name, value in tree.items():
        values |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return values
