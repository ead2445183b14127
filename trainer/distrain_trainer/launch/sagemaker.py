"""SageMaker's contract: how a training job tells a container what to train, and where it leaves what comes of it.

SageMaker starts the image with the argument `train` and gives it the folder /opt/ml: `input/config` describes the job,
`input/data/<channel>` holds its data, `checkpoints` is copied to S3 while it runs and back when it is started again,
and `model` and `output` are uploaded at its end. It sends SIGTERM 120 s before it ends a container.
"""

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from distrain_trainer.errors import DistrainError, OutOfTime, SettingsError, Stopped, VolumeError
from distrain_trainer.launch.cluster_environment import variable
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.reader import read_settings
from distrain_trainer.storage.files import link_or_copy
from distrain_trainer.storage.layout import RECORDS, model_files, published_checkpoints

ROOT = "SAGEMAKER_BASE_DIR"
"""The variable that names another folder than /opt/ml. It is that of SageMaker's own training toolkit."""
CONFIGURATION = Path("input", "config")
DATA = Path("input", "data")
GRACE_SECONDS = 120
"""Seconds between SIGTERM and SIGKILL."""
TRAINING_TYPES = {"basic": "single", "accelerated": "ddp"}
"""Values of the hyperparameter training_type, and the strategies that they name."""
OWN = ("processes", "training_type")
"""Hyperparameters that are no settings."""
TRAINED, EVALUATED = ("train", "training"), ("validation", "evaluation", "test")
"""Channels whose files are trained and evaluated on; of each the first that is there."""
SHARED = "output"
"""The channel of a file system on which several hosts keep the run's folder."""
SAVED = ("dataset_dict.json", "state.json")
"""What save_to_disk leaves in a folder."""


@dataclass(frozen=True)
class TrainingJob:
    """A training job, as this host sees it. root: of its files. hosts: names of all, in the order on which they agree.
    host: name of this one. interface: network interface by which they talk, empty where it is not known."""

    root: Path
    hosts: tuple[str, ...]
    host: str
    interface: str = ""

    @property
    def index(self) -> int:
        """Number of this host, which is that of its node."""
        return self.hosts.index(self.host)

    @cached_property
    def hyperparameters(self) -> dict[str, str]:
        """Name -> text of those that are meant for the program. Raises SettingsError."""
        values = _read(self.root / CONFIGURATION / "hyperparameters.json")
        return {name: _text(value) for name, value in values.items() if not name.startswith(("sagemaker_", "_tuning_"))}

    @property
    def processes(self) -> int | None:
        """Processes on each host; None: one per GPU. Raises SettingsError."""
        text = self.hyperparameters.get("processes")
        if text is None:
            return 1 if self.hyperparameters.get("training_type") == "basic" else None
        if not text.isdigit():
            raise SettingsError(f"the hyperparameter processes is {text!r}; give 1 or more")
        return int(text)

    def flags(self, file: str | None, typed: Mapping[str, str]) -> dict[str, str]:
        """The settings of the job, as text by dotted names.

        They are its hyperparameters, over which goes what is typed behind `train`; where nobody has set them, its
        channels are the data and its folder of checkpoints is output_dir. file: of settings. Raises SettingsError.
        """
        given = {name: text for name, text in self.hyperparameters.items() if name not in OWN}
        if (kind := self._strategy(given)) is not None:
            given["strategy.kind"] = kind
        settings = read_settings(file, typed, hyperparameters=given)
        return given | self._left_open(settings) | dict(typed)

    @contextmanager
    def results_of(self, folder: Path) -> Iterator[None]:
        """Stands around a run in `folder`, and leaves what comes of it where SageMaker takes it from.

        That is the final model, or the newest checkpoint's where the run was stopped. Raises VolumeError.
        """
        self._check_writable()
        self._introduce()
        try:
            yield
        except DistrainError as error:
            if error.exit_code in (Stopped.exit_code, OutOfTime.exit_code):
                self._deliver(folder, published_checkpoints(folder)[:1])
            raise
        self._deliver(folder, [folder / "final"])

    def _introduce(self) -> None:
        """Sets the variables by which a cluster describes a machine, for this process and its workers."""
        found = {variable("node_name"): self.host, variable("grace_seconds"): str(GRACE_SECONDS)}
        if Path("/sys/class/net", self.interface or "-").exists():
            found |= {"NCCL_SOCKET_IFNAME": self.interface, "GLOO_SOCKET_IFNAME": self.interface}
        for name, value in found.items():
            os.environ.setdefault(name, value)

    def _check_writable(self) -> None:
        """Makes sure that results can be left. Raises VolumeError."""
        for folder in (self.root / "model", self.root / "output" / "data"):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                if not os.access(folder, os.W_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            except OSError as error:
                raise VolumeError(
                    f"{folder} cannot be written: {error.strerror}; SageMaker's folders belong to root, so build an "
                    "image from this one with `USER 0`"
                ) from None

    def _deliver(self, folder: Path, models: list[Path]) -> None:
        """Leaves a model in `model` and the run's records in `output/data`, on the first host. Raises VolumeError."""
        if self.index:
            return
        records = [path for name in RECORDS if (path := folder / name).is_file()]
        try:
            for path in models:
                _replace(self.root / "model", model_files(path))
            _replace(self.root / "output" / "data", records)
        except OSError as error:
            raise VolumeError(
                f"the model could not be copied to {self.root / 'model'}: {error.strerror}; it is in {folder}"
            ) from None

    def _strategy(self, given: Mapping[str, str]) -> str | None:
        """The strategy that training_type names, None where it is not set. Raises SettingsError."""
        named = self.hyperparameters.get("training_type")
        if named is None:
            return None
        kind, asked = TRAINING_TYPES.get(named), given.get("strategy.kind")
        if kind is None:
            raise SettingsError(f"the hyperparameter training_type is {named!r}; choose {' or '.join(TRAINING_TYPES)}")
        if asked not in (None, kind):
            raise SettingsError(
                f"the hyperparameters training_type {named}, which is strategy.kind {kind}, and strategy.kind {asked} "
                "contradict each other; keep one of them"
            )
        return kind

    def _left_open(self, settings: Settings) -> dict[str, str]:
        """What the job's folders say about settings that nobody has set."""
        data, found = settings.data, dict[str, str]()
        if data.name is None and data.files is None and (channel := self._channel(TRAINED)):
            found["data.files"] = json.dumps([channel])
        is_local, chosen = found or data.files, data.evaluation_files or data.evaluation_split
        if is_local and not chosen and (channel := self._channel(EVALUATED)):
            found["data.evaluation_files"] = json.dumps([channel])
        if settings.output_dir == Settings().output_dir:
            found["output_dir"] = str(self._output())
        return found

    def _channel(self, names: tuple[str, ...]) -> str | None:
        """The files of the first of these channels that is there: a pattern, or the folder that save_to_disk wrote."""
        for name in names:
            folder = self.root / DATA / name
            if folder.is_dir():
                return str(folder) if any((folder / saved).exists() for saved in SAVED) else f"{folder}/**/*"
        return None

    def _output(self) -> Path:
        """The run's folder. Raises SettingsError where several hosts share none."""
        shared = self.root / DATA / SHARED
        if shared.is_dir():
            return shared / os.environ.get("TRAINING_JOB_NAME", "")
        if len(self.hosts) > 1:
            raise SettingsError(
                f"the job has {len(self.hosts)} hosts, which must write into one folder, and {self.root}/checkpoints "
                f"is each host's own; give the job a channel `{SHARED}` from FSx for Lustre or EFS with access rw, or "
                "set output_dir to a folder that all hosts share"
            )
        return self.root / "checkpoints"


def root(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The folder of the training job that this container is part of, None outside of SageMaker."""
    folder = Path(environment.get(ROOT) or "/opt/ml")
    elsewhere = environment.get("PET_NNODES")  # Kubeflow has described the node
    return folder if not elsewhere and (folder / CONFIGURATION / "resourceconfig.json").exists() else None


def job_here(environment: Mapping[str, str] = os.environ) -> TrainingJob | None:
    """The training job that this container is part of, None outside of SageMaker. Raises SettingsError."""
    folder = root(environment)
    if folder is None:
        return None
    file = folder / CONFIGURATION / "resourceconfig.json"
    found = _read(file)
    hosts, host = found.get("hosts"), str(found.get("current_host"))
    if not isinstance(hosts, list) or host not in hosts:
        raise SettingsError(f"{file} does not name this host among the job's hosts; start the job again")
    return TrainingJob(folder, tuple(sorted(hosts)), host, found.get("network_interface_name") or "")


def failure_file(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The file from which SageMaker takes why a job has failed, None outside of it."""
    folder = root(environment)
    return None if folder is None else folder / "output" / "failure"


def _read(file: Path) -> dict[str, Any]:
    """A JSON object, empty where there is no such file. Raises SettingsError."""
    try:
        content = json.loads(file.read_text()) if file.exists() else {}
    except (OSError, ValueError) as error:
        raise SettingsError(f"{file} cannot be read: {error}; start the job again") from None
    if not isinstance(content, dict):
        raise SettingsError(f"{file} holds no JSON object; start the job again")
    return content


def _text(value: object) -> str:
    """A hyperparameter as it would be typed: the SDK makes JSON of every value, so that texts have quotes."""
    if not isinstance(value, str):
        return json.dumps(value)
    if value.startswith('"'):
        try:
            return str(json.loads(value))
        except ValueError:
            pass
    return value


def _replace(folder: Path, files: list[Path]) -> None:
    """Puts files into a folder in place of those of the same names. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        (folder / file.name).unlink(missing_ok=True)
        link_or_copy(file, folder / file.name)
