"""What the Hugging Face Hub answers to who fetches or pushes, told apart in one sentence each.

Fits everything that huggingface_hub, datasets and transformers raise when they fetch: transformers wraps the Hub's
errors in OSError and datasets in its own, so the whole chain of causes is looked at.
"""

from collections.abc import Iterator
from typing import Literal

from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from distrain_trainer.errors import DataError, DistrainError, ServiceAway, SettingsError, first_line

HTTP_CLIENTS = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")
"""Their errors mean that no answer came; which of them huggingface_hub uses changes between its versions."""


def hub_error(
    error: BaseException, kind: Literal["model", "data set"], name: str, revision: str | None = None
) -> DistrainError:
    """The error to raise for what was caught when `name` was fetched, with the sentence of `hub_sentence`.

    One that the Hub answers while it is overloaded or broken passes by itself (ServiceAway).
    """
    sentence = hub_sentence(error, kind, name, revision)
    if _passing_status(error) is not None:
        return ServiceAway(sentence)
    found = DataError(sentence) if kind == "data set" else SettingsError(sentence)
    found.away = " cannot be reached for " in sentence
    return found


def push_error(error: BaseException, kind: str, name: str) -> DistrainError:
    """The error to raise for what was caught when something was pushed to the repository `name`; ServiceAway where the
    same push may succeed later. kind: model or dataset."""
    answered = next((link for link in chain(error) if isinstance(link, HfHubHTTPError) or _is_connection(link)), error)
    status = answered.response.status_code if isinstance(answered, HfHubHTTPError) else None
    said = getattr(answered, "server_message", None) or str(answered)
    said = said.strip().splitlines()[0].rstrip(" .:") if said.strip() else type(answered).__name__
    what = f"the {kind} repository {name}"
    tokens = f"make one that may at {constants.ENDPOINT}/settings/tokens and set HF_TOKEN to it"
    if _is_connection(answered):
        return ServiceAway(f"the Hub at {constants.ENDPOINT} cannot be reached for {what}; check network and proxy")
    if status is not None and (_passes(status) or status in (409, 412)):  # or another commit came in between
        return ServiceAway(f"the Hub answered {status} for {what}; {_advice(status)}")
    match status:
        case 401 if not get_token():
            return SettingsError(f"pushing to {what} needs a token that may write; {tokens}")
        case 401:
            return SettingsError(f"HF_TOKEN is wrong or expired, so nothing is pushed to {what}; {tokens}")
        case 403:
            return SettingsError(f"HF_TOKEN may not write to {what} ({said}); {tokens}")
        case 404:
            return SettingsError(f"{what} is not there and HF_TOKEN may not make it ({said}); check its name")
        case None:
            return SettingsError(f"nothing was pushed to {what}: {said}")
    return SettingsError(f"the Hub refused what was pushed to {what} with {status} ({said})")


def _passing_status(error: BaseException) -> int | None:
    """The HTTP status that says that the same request may succeed later; None where none was answered."""
    statuses = (link.response.status_code for link in chain(error) if isinstance(link, HfHubHTTPError))
    return next(filter(_passes, statuses), None)


def _passes(status: int) -> bool:
    return status in (408, 425, 429) or status >= 500


def hub_sentence(
    error: BaseException, kind: Literal["model", "data set"], name: str, revision: str | None = None
) -> str:
    """What went wrong when `name` was fetched from the Hub, and what to do, in one sentence.

    error: what was caught; its causes are followed. revision: the one that was asked for, None for the newest.
    An error that is not the Hub's becomes a sentence with the first line of its own message.
    """
    section = "data" if kind == "data set" else "model"
    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'data set' else ''}{name}"
    access = "the account of HF_TOKEN has no access" if get_token() else "HF_TOKEN is not set"
    gated = (
        f"{kind} {name} is gated and {access}; accept its terms at {page} and set HF_TOKEN to a token of that account"
    )
    no_revision = f"{kind} {name} has no revision {revision}; choose a branch, tag or commit for {section}.revision"
    not_found = (
        f"{kind} {name} is not on the Hub, or is private and {access}; check {section}.name, or set HF_TOKEN to a "
        "token that may read it"
    )
    unreachable = (
        f"{kind} {name} is not in the cache {constants.HF_HOME} and HF_HUB_OFFLINE is set; unset it, or fill the "
        "cache first"
        if constants.HF_HUB_OFFLINE
        else f"the Hub at {constants.ENDPOINT} cannot be reached for {kind} {name}, which is not in the cache "
        f"{constants.HF_HOME}; check network and proxy, or name a local folder"
    )
    if (passing := _passing_status(error)) is not None:  # before a wrapper that says that nothing is in the cache
        return f"the Hub answered {passing} for {kind} {name}; {_advice(passing)}"
    for link in chain(error):
        match link:
            case GatedRepoError():
                return gated
            case RevisionNotFoundError():
                return no_revision
            case DisabledRepoError():
                return f"{kind} {name} was disabled by the Hub; see {page} and choose another"
            case RepositoryNotFoundError():
                return not_found
            case HfHubHTTPError() if (status := link.response.status_code) != 404:
                return f"the Hub answered {status} for {kind} {name}; {_advice(status)}"
            case HFValidationError():
                return f"{section}.name {name} is not a name on the Hub, which has the form owner/name; correct it"
            case LocalEntryNotFoundError() | ConnectionError():
                return unreachable
        if type(link).__name__ == "DatasetNotFoundError":  # datasets cuts the chain; only its words are left
            words = str(link)
            return gated if "gated" in words else no_revision if words.startswith("Revision") else not_found
        if type(link).__module__.partition(".")[0] in HTTP_CLIENTS:
            return unreachable
    return f"{kind} {name} cannot be loaded: {first_line(error)}"


def _is_connection(link: BaseException) -> bool:
    """Whether an error says that no answer came."""
    client = type(link).__module__.partition(".")[0] in HTTP_CLIENTS
    return client or isinstance(link, ConnectionError | TimeoutError)


def _advice(status: int) -> str:
    if status in (401, 403):
        return "HF_TOKEN is wrong, expired or not allowed to read it: set a valid one"
    if status == 429:
        return "too many requests: wait, or set HF_TOKEN for a higher limit"
    return "try again later"


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what led to it, outermost first."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
