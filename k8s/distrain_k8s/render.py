"""The chart that comes with the client, and what Helm makes of it: the manifests of a run, checked on this machine."""

import difflib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from distrain_k8s.errors import HelmError, InstallationError
from distrain_k8s.helm import Helm
from distrain_trainer.errors import SettingsError
from distrain_trainer.settings.model import Settings
from distrain_trainer.settings.reader import PREFIX, read_settings, variable

Document = dict[str, Any]


def chart_folder() -> Path:
    """The folder of the Helm chart: beside this module where distrain is installed, in `charts/` of a checkout."""
    here = Path(__file__).parent
    for folder in (here / "chart", here.parents[1] / "charts" / "distrain"):
        if (folder / "Chart.yaml").is_file():
            return folder
    raise InstallationError(f"the chart is missing from {here}; install distrain again")


@dataclass(frozen=True)
class Values:
    """The chart's values, in the order in which later ones override earlier ones.

    files: values files. more: values of our own, such as settings of the trainer. sets: as `--set` takes them.
    """

    files: tuple[str, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)
    sets: tuple[str, ...] = ()

    def arguments(self) -> list[str]:
        """For Helm, which reads `more` on its standard input."""
        files = [part for file in (*self.files, "-") for part in ("-f", file)]
        return [*files, *(part for text in self.sets for part in ("--set", text))]

    def with_settings(self, settings: Mapping[str, Any]) -> "Values":
        """Also with these settings of the trainer, by their dotted names."""
        more = json.loads(json.dumps(dict(self.more)))
        for name, value in settings.items():
            *sections, last = ("trainer", *name.split("."))
            node = more
            for section in sections:
                node = node.setdefault(section, {})
            node[last] = value
        return Values(self.files, more, self.sets)


def render(helm: Helm, name: str, values: Values, look: bool = False) -> list[Document]:
    """The manifests of a run. look: whether the chart may look at what the cluster holds. Raises SettingsError."""
    cluster = ["--dry-run=server", "--disable-openapi-validation"] if look else []
    try:
        text = helm.run(
            *("template", name, str(chart_folder()), *cluster, *values.arguments()), stdin=json.dumps(values.more)
        )
    except HelmError as error:
        if "invalid release name" in error.stderr or "release name is invalid" in error.stderr:
            raise SettingsError(
                f"{name} is not a valid name for a run; start with a letter and use lower-case letters, digits and "
                "hyphens, 50 at most"
            ) from None
        faults = list(schema_faults(error.stderr))
        if not faults and any(
            sign in error.stderr for sign in ("Kubernetes cluster unreachable", "is forbidden: User")
        ):
            raise
        raise SettingsError("; ".join(faults) or str(error)) from None
    return [document for document in yaml.safe_load_all(text) if document]


def settings_of(documents: list[Document]) -> Settings:
    """The trainer's settings as the container will read them, checked. Raises SettingsError.

    A DeepSpeed or Accelerate file lies in the container, where it is checked.
    """
    data = next(found["data"] for found in documents if found["kind"] == "ConfigMap")
    environment = {name: text for name, text in data.items() if name.startswith(PREFIX)}
    file = environment.get(variable("strategy.config"))
    if file and not Path(file).is_file():
        del environment[variable("strategy.config")]
    try:
        return read_settings(None, {}, environment)
    except SettingsError as error:
        raise SettingsError(as_values(str(error))) from None


def as_values(sentence: str) -> str:
    """A sentence about variables of the environment as one about the chart's values, which is what the user wrote."""

    def value(match: re.Match[str]) -> str:
        return f"trainer.{match[2].lower().replace('__', '.')}"

    return re.sub(rf"(the environment variable )?{PREFIX}([A-Z0-9_]+)", value, sentence)


def schema_faults(stderr: str) -> Iterator[str]:
    """What Helm says of each value that the schema refuses: by its dotted name, with the nearest one that exists."""
    if "the schema(s)" not in stderr:
        return
    schema = json.loads((chart_folder() / "values.schema.json").read_text())
    for line in stderr.splitlines():
        if not line.startswith("- "):
            continue
        place, _, what = line.removeprefix("- ").partition(": ")
        name = re.sub(r"^at '(.*)'$", r"\1", place).strip("/").replace("/", ".").removeprefix("(root)")
        unknown = re.fullmatch(r"additional propert(?:y|ies) (.*) not allowed", what, re.IGNORECASE)
        older = re.fullmatch(r"Additional property (\S+) is not allowed", what)
        if unknown or older:
            wrong = re.findall(r"'([^']+)'", unknown[1]) if unknown else [older[1]] if older else []
            yield from (_unknown(schema, name, word) for word in wrong)
        else:
            yield f"{name or 'the file'} {_plain(what)}"


def _unknown(schema: Document, section: str, wrong: str) -> str:
    node = schema
    for part in section.split(".") if section else ():
        node = node.get("properties", {}).get(part, {})
    start = f"{section}." if section else ""
    near = difflib.get_close_matches(wrong, node.get("properties", {}), n=1, cutoff=0)
    return f"{start}{wrong} is not a value of the chart" + (f"; did you mean {start}{near[0]}?" if near else "")


def _plain(what: str) -> str:
    """`got string, want integer or null` in words."""
    if match := re.fullmatch(r"got (.+), want (.+)", what):
        return f"is a {match[1]}, but must be {match[2].replace('null or ', '')}"
    if match := re.fullmatch(r"(minimum|maximum): got (.+), want (.+)", what):
        return f"is {match[2]}, but its {match[1]} is {match[3]}"
    if match := re.fullmatch(r"value must be one of (.+)", what):
        return f"must be one of {match[1].replace(', null', '')}"
    return what
