"""Whether a run will be able to push its model, asked before it takes a GPU."""

from contextlib import suppress
from typing import Any

from huggingface_hub import HfApi, constants, get_session, get_token
from huggingface_hub.errors import RepositoryNotFoundError

from distrain_trainer.console import say
from distrain_trainer.errors import DistrainError, ServiceAway, SettingsError
from distrain_trainer.hub.commits import PATIENCE
from distrain_trainer.hub.errors import push_error
from distrain_trainer.hub.upload import check_visibility
from distrain_trainer.settings.sections import Hub


def check_before_training(asked: Hub, begun: bool) -> None:
    """Refuses a run whose model could not be pushed at the end. begun: it has been training, and is not given up for
    that. Raises SettingsError.

    A Hub that is away may be back by then, and training does not need it.
    """
    try:
        told = check_access(asked)
    except SettingsError as error:
        if not begun:
            raise
        told = str(error)
    if told:
        say(f"{told}; training goes on, and the model is pushed when it is there")


def check_access(asked: Hub) -> str | None:
    """Makes sure that HF_TOKEN may write to `asked.repo`; a sentence where the Hub does not say so now.

    Nothing is made on the Hub. Raises SettingsError.
    """
    assert asked.repo is not None
    repo = asked.repo
    if constants.HF_HUB_OFFLINE:
        raise SettingsError(
            f"HF_HUB_OFFLINE is set, so nothing can be pushed to hub.repo {repo}; unset it, or remove hub.repo and use "
            "distrain push where there is a network"
        )
    if get_token() is None:
        raise SettingsError(
            f"hub.repo is {repo} but HF_TOKEN is not set; set it to a token that may write, from "
            f"{constants.ENDPOINT}/settings/tokens"
        )
    api, info = HfApi(), None
    try:
        get_session().timeout = PATIENCE
        check_account(api.whoami(), repo)
        with suppress(RepositoryNotFoundError):
            info = api.repo_info(repo, timeout=PATIENCE)
    except DistrainError:
        raise
    except Exception as error:  # see `upload.patiently`
        found = push_error(error, "model", repo)
        if isinstance(found, ServiceAway):
            return str(found)
        raise found from error
    if info is not None:
        check_visibility(repo, bool(info.private), asked.private)
    return None


def check_account(account: dict[str, Any], repo: str) -> None:
    """Raises SettingsError where a token may not write to a repository. account: what the Hub says of it (whoami-v2).

    What is not told, as by a Hub of another make, is taken for allowed: the push itself finds out.
    """
    owner, wanted = repo.partition("/")[0].lower(), repo.lower()
    name, token = account.get("name", ""), (account.get("auth") or {}).get("accessToken") or {}
    advice = f"make one that may write at {constants.ENDPOINT}/settings/tokens and set HF_TOKEN to it"
    if token.get("role") == "read":
        raise SettingsError(f"hub.repo is {repo} but HF_TOKEN may only read; {advice}")
    names = {name.lower(), *(org.get("name", "").lower() for org in account.get("orgs") or ())}
    if name and owner not in names:
        raise SettingsError(
            f"hub.repo is {repo} but the account of HF_TOKEN, {name}, is not a member of {repo.partition('/')[0]}; "
            "correct hub.repo, or use another token"
        )
    if token.get("role") == "fineGrained":
        scopes = (token.get("fineGrained") or {}).get("scoped") or ()
        may = {scope["entity"].get("name", "").lower() for scope in scopes if "repo.write" in scope["permissions"]}
        if not may & {owner, wanted}:
            raise SettingsError(f"hub.repo is {repo} but HF_TOKEN, a fine-grained one, may not write there; {advice}")
