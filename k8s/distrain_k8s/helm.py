"""Helm, found on PATH and run with a time limit. What it says of an error becomes one sentence."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache

from distrain_k8s.errors import HelmError, HelmMissing
from distrain_k8s.kube.faults import DENIED, forbidden

OLDEST = (3, 13)
"""The first version whose `--dry-run=server` lets a chart look at the cluster."""
GET_HELM = "https://helm.sh/docs/intro/install, or brew install helm, or snap install helm --classic"
NOISE = ("WARNING", "level=", "W0", "I0", "coalesce.go", "warning:")
"""How lines begin in which Helm does not speak of the error."""


@dataclass(frozen=True)
class Helm:
    """The program. version: major and minor. where: its options that name the cluster and the namespace."""

    program: str
    version: tuple[int, int]
    where: tuple[str, ...] = ()

    def run(self, *arguments: str, stdin: str = "", limit: float = 60) -> str:
        """What a command prints. limit: seconds. Raises HelmError with what Helm said, as a sentence.

        Helm gets a session of its own, so that Ctrl-C does not reach it in the middle of an installation.
        """
        command = [self.program, *arguments, *self.where]
        try:
            done = subprocess.run(
                command, input=stdin, capture_output=True, text=True, timeout=limit, start_new_session=True
            )
        except subprocess.TimeoutExpired:
            raise HelmError(
                f"helm {arguments[0]} did not answer within {limit:.0f} s; does the cluster? distrain doctor says it"
            ) from None
        if done.returncode != 0:
            raise HelmError(sentence(done.stderr), done.stderr)
        return done.stdout


def find_helm(namespace: str | None = None, context: str | None = None, kubeconfig: str | None = None) -> Helm:
    """Helm 3.13 or later, or 4. Raises HelmMissing."""
    program = shutil.which("helm")
    if program is None:
        raise HelmMissing(f"a run is a Helm release, and there is no helm on PATH; install it: {GET_HELM}")
    named = {"--namespace": namespace, "--kube-context": context, "--kubeconfig": kubeconfig}
    where = tuple(part for option, value in named.items() if value for part in (option, value))
    return Helm(program, version_of(program), where)


@cache
def version_of(program: str) -> tuple[int, int]:
    """Major and minor. Raises HelmMissing where it is too old, or is not Helm at all."""
    try:
        done = subprocess.run([program, "version", "--short"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HelmMissing(f"{program} cannot be run ({error}); install Helm again: {GET_HELM}") from None
    found = re.search(r"^v(\d+)\.(\d+)", done.stdout)
    if found is None:
        raise HelmMissing(
            f"{program} is not Helm ({done.stdout.strip()[:80]!r} is its version); install Helm: {GET_HELM}"
        )
    version = int(found[1]), int(found[2])
    if version < OLDEST:
        raise HelmMissing(f"{program} is Helm {version[0]}.{version[1]}; install 3.13 or later: {GET_HELM}")
    return version


def sentence(stderr: str) -> str:
    """What Helm says of an error, without where in its templates a chart said it."""
    if denied := DENIED.search(" ".join(stderr.replace('\\"', '"').split())):
        return str(forbidden(denied))
    lines = [line for line in stderr.splitlines() if line.strip() and not line.startswith(NOISE)]
    text = " ".join(" ".join(lines).split())
    text = text.rpartition("Error: ")[2]
    for mark in ("error calling fail: ", "error calling include: "):
        text = text.rpartition(mark)[2]
    text = re.sub(r"^(INSTALLATION FAILED|UPGRADE FAILED|rollback failed): ", "", text)
    text = re.sub(r"^execution error at \([^)]*\): ", "", text)
    text = text.removesuffix(" Use --debug flag to render out invalid YAML")
    return text or "helm failed and did not say why"
