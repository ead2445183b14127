"""Waits for the end of a run: by its status, never by its logs."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from distrain_k8s.errors import NOT_FOUND, NotFound, Unreachable
from distrain_k8s.kube.client import Api
from distrain_k8s.output import span
from distrain_k8s.runs.find import find_run
from distrain_k8s.runs.status import Phase, Run

SUCCEEDED, FAILED, NOT_FINISHED, STOPPED = 0, 100, 101, 103
"""Exit codes, beside `errors.NOT_FOUND`."""
LOOK = 3.0
"""Seconds between two looks."""
PATIENCE = 900.0
"""Seconds that a control plane may be away."""
CODES = {Phase.SUCCEEDED: SUCCEEDED, Phase.FAILED: FAILED, Phase.STOPPED: STOPPED}
Say = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """How waiting has ended. code: the exit code of `distrain wait`. sentence: the reason. run: as it was seen last,
    None where it never was."""

    code: int
    sentence: str
    run: Run | None


def wait_for(
    api: Api,
    name: str,
    timeout: float | None = None,
    stall: float | None = None,
    say: Say | None = None,
    namespace: str | None = None,
    progress: Callable[[Run], object] = lambda run: None,
    look: float = LOOK,
) -> Outcome:
    """Waits until a run has succeeded, failed or was stopped.

    timeout: seconds, None for as long as it takes. stall: seconds without progress after which it is given up; progress
    is a change of what is seen of its pods, or of what `progress` returns, such as its step. say: told each change.
    Raises Unreachable where the API server is away for 15 minutes, or until the time is over.
    """
    started = moved = time.monotonic()
    known: object = None
    last: Run | None = None
    told = ""
    while True:
        left = PATIENCE if timeout is None else max(timeout - (time.monotonic() - started), 0.0)
        try:
            run = find_run(api.patient(min(PATIENCE, left)), name, namespace)
            now_known = (_seen(run), None if stall is None else progress(run))
        except NotFound as error:
            return _gone(error, name, last)
        except Unreachable as error:
            if timeout is None or time.monotonic() - started < timeout:
                raise
            return Outcome(NOT_FINISHED, f"{name} was not seen to end in {span(timeout)}: {error}", last)
        if (code := CODES.get(run.phase)) is not None:
            return Outcome(code, ending(run), run)
        last = run
        if say and (sentence := standing(run)) != told:
            say(sentence)
            told = sentence
        now = time.monotonic()
        if now_known != known:
            known, moved = now_known, now
        if timeout is not None and now - started >= timeout:
            return Outcome(NOT_FINISHED, f"{name} has not ended in {span(timeout)}; {standing(run)}", run)
        if stall is not None and now - moved >= stall:
            return Outcome(NOT_FINISHED, f"{name} has made no progress for {span(stall)}; {standing(run)}", run)
        time.sleep(max(min(look, started + timeout - now if timeout is not None else look), 0.01))


def standing(run: Run) -> str:
    """Where a run stands: `run1 is Pending: no node has room for node 0: ...; distrain resume ...`."""
    if run.cause is None:
        where = f", {run.nodes_running} of {run.nodes} nodes" if run.nodes > 1 and run.phase is not Phase.QUEUED else ""
        return f"{run.name} is {run.shown_phase}{where}"
    return f"{run.name} is {run.shown_phase}: {run.cause.sentence}" + (f"; {run.cause.mend}" if run.cause.mend else "")


def ending(run: Run) -> str:
    """How a run has ended, and why."""
    after = span(run.seconds)
    match run.phase:
        case Phase.SUCCEEDED:
            return f"{run.name} has succeeded after {after}"
        case Phase.FAILED:
            reason = f": {run.cause.sentence}" if run.cause else ""
            mend = f"; {run.cause.mend}" if run.cause and run.cause.mend else ""
            return f"{run.name} has failed after {after}{reason}{mend}"
    if run.cause:
        return f"{run.name}: {run.cause.sentence}"
    return f"{run.name} is stopped; distrain resume {run.name} -n {run.namespace} continues it"


def _gone(error: NotFound, name: str, last: Run | None) -> Outcome:
    if last is None:
        return Outcome(error.exit_code if error.exit_code != NOT_FOUND else NOT_FOUND, str(error), None)
    return Outcome(STOPPED, f"{name} was removed", last)


def _seen(run: Run) -> object:
    return run.phase, run.restarts, run.nodes_running, [(pod.name, pod.state, pod.node) for pod in run.pods]
