"""Fetches what a run has written: model, metrics and report, each file checked by its SHA-256."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from distrain_k8s.errors import ClientError, NotFound
from distrain_k8s.kube.client import Api
from distrain_k8s.runs.jobs import find_job
from distrain_k8s.runs.reader import Reader, reader
from distrain_k8s.watch.transfer import Bar

REPORT, METRICS, FINAL = ("report.html",), ("metrics.jsonl", "training_info.json", "settings.json"), ("final",)
Say = Callable[[str], None]


@dataclass(frozen=True)
class Fetched:
    """A file that was fetched. path: below the run's folder. sha256: of the file in the pod and of the one here."""

    path: str
    file: Path
    bytes: int
    sha256: str


def fetch(api: Api, run: str, to: Path, parts: tuple[str, ...], say: Say, bar: Bar | None = None) -> list[Fetched]:
    """Fetches files of a run into a folder. parts: files and folders below the run's; empty: all but checkpoints and
    logs. Raises NotFound where the run has none of them."""
    with open_reader(api, run, say) as found:
        there = {path: stored for path, stored in found.files().items() if wanted(path, parts)}
        if not there:
            what = ", ".join(parts) or "results"
            raise NotFound(f"{run} has no {what} yet; `distrain status {run}` says how far it is", "file", what)
        done: dict[str, Fetched] = {}
        for path, stored in sorted(there.items(), key=lambda entry: (entry[1].link in there, entry[0])):
            target = inside(to, path)
            if original := done.get(stored.link or ""):
                link(target, original.file)
                digest = original.sha256
            else:
                digest = found.save(path, target, bar.add(path, stored.size) if bar else lambda _: None)
            done[path] = Fetched(path, target, target.stat().st_size, digest)
        return [done[path] for path in sorted(done)]


def link(path: Path, original: Path) -> None:
    """Makes a path a link to a file that was fetched, or a copy of it where links are not permitted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    try:
        path.symlink_to(os.path.relpath(original, path.parent))
    except OSError:
        shutil.copyfile(original, path)


def wanted(path: str, parts: tuple[str, ...]) -> bool:
    """Whether a path is one of the parts or lies below one."""
    first = PurePosixPath(path).parts[0]
    if not parts:
        return not first.startswith(("checkpoint-", "logs", "errors", ".")) and not first.endswith(".lock")
    return first in parts


def inside(folder: Path, path: str) -> Path:
    """Where a file goes. Raises ClientError where that is not below the folder: the pod's answer is not trusted."""
    parts = PurePosixPath(path).parts
    if PurePosixPath(path).is_absolute() or ".." in parts:
        raise ClientError(f"the pod names a file outside of the run's folder ({path}); nothing was written")
    return folder.joinpath(*parts)


@contextmanager
def open_reader(api: Api, run: str, say: Say) -> Iterator[Reader]:
    """A reader of a run's files while the block runs. Raises NotFound."""
    found = find_job(api, run)
    with reader(api, found.raw, run, say) as made:
        yield made


def earlier_logs(api: Api, run: str, say: Say, node: int | None = None) -> Iterator[tuple[int, int, str]]:
    """What earlier attempts of a run have logged, from its own files: (attempt, node, line), the oldest attempt first.

    node: of this node only. Needs the permission to make a pod, which viewers do not have.
    """
    with open_reader(api, run, say) as found:
        logs = sorted((place for path in found.files() if (place := log_place(path))), key=lambda place: place[:2])
        if not logs:
            raise NotFound(f"{run} has no logs of earlier attempts on its claim", "file", "logs")
        for attempt, rank, path in logs:
            if node is None or node == rank:
                for line in found.read(path).decode(errors="replace").splitlines():
                    yield attempt, rank, line


def log_place(path: str) -> tuple[int, int, str] | None:
    """Attempt and node of `logs/node-0.attempt-2.log`; None of another file."""
    name = PurePosixPath(path)
    parts = name.name.split(".")
    if name.parts[0] != "logs" or len(parts) != 3 or parts[2] != "log":
        return None
    rank, attempt = parts[0].removeprefix("node-"), parts[1].removeprefix("attempt-")
    return (int(attempt), int(rank), path) if rank.isdigit() and attempt.isdigit() else None
