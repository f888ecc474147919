"""An exported model on its way to the hub: may it be put there, the commit, and what goes wrong, in one line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants, errors
from huggingface_hub.utils import httpx

from detox.model import hub
from detox.stage import artifacts
from detox.stage.errors import UserError, printable


def push(folder: Path, name: str) -> str:
    """Commit the files of an export to a repository of the hub, in one commit; return its address.

    Raises:
        UserError: the hub is out of reach or refuses.
    """
    api = huggingface_hub.HfApi()
    with hub_errors(name):
        api.create_repo(name, private=True, exist_ok=True)
        commit = api.upload_folder(
            repo_id=name,
            folder_path=folder,
            ignore_patterns=[artifacts.MANIFEST],  # tells of folders on this machine
            commit_message="Detoxified summarizer, merged",
        )
    return commit.commit_url


def check(name: str, overwrite: bool) -> None:
    """Refuse early a repository that can't be written, or that has files.

    Raises:
        UserError: the hub is out of reach or refuses; or has a model under that name, and `overwrite` is not given.
    """
    api = huggingface_hub.HfApi()
    with hub_errors(name):
        api.whoami()
        try:
            there = {file.rfilename for file in api.model_info(name).siblings or ()}
        except errors.GatedRepoError:
            raise
        except errors.RepositoryNotFoundError:
            return
    if there - {".gitattributes"} and not overwrite:
        raise UserError(
            f"--push-to-hub={name}: has files; pass --overwrite to commit on top of them, or choose another name"
        )


@contextlib.contextmanager
def hub_errors(name: str) -> Iterator[None]:
    """Turn what goes wrong in writing to the hub into one `UserError` about the repository `name`."""
    endpoint, flag = constants.ENDPOINT, f"--push-to-hub={name}"
    problem = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else hub.problem(endpoint)
    if problem:
        raise UserError(f"{flag}: the hub at {endpoint} cannot be reached ({printable(problem, 120)}); try again later")
    try:
        yield
    except errors.LocalTokenNotFoundError:
        raise UserError(f"{flag}: no token; log in with `hf auth login`, or set HF_TOKEN") from None
    except (errors.HfHubHTTPError, httpx.HTTPError, ValueError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status == 401:
            raise UserError(f"{flag}: {endpoint} does not take the token; {hub.access_advice()}") from None
        if status in (403, 404):
            raise UserError(
                f"{flag}: {endpoint} allows no writing there; use a token with write access, or a name of your own"
            ) from None
        reason = printable(getattr(error, "server_message", None) or error, 160)
        raise UserError(f"{flag}: {endpoint} failed ({reason}); try again later") from None
