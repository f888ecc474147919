"""The hub of models and datasets: whether it is in reach, what is fetched from it, what goes wrong in words."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants, errors
from huggingface_hub.utils import get_session, httpx

from detox.stage import environment
from detox.stage.errors import UserError, printable

PROBE_SECONDS = 4.0
_PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "all_proxy", "https_proxy", "http_proxy")
_EMBEDDED = {"model": "demo:base, demo:lora, demo:reward, demo:judge", "dataset": "demo:corpus"}
_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


class HubUnreachable(UserError):
    """A model is not in the local cache, and the hub cannot be reached."""


@functools.lru_cache(maxsize=4)
def problem(endpoint: str) -> str | None:
    """Ask once whether the hub answers; return why not, or None.

    The request runs in a thread, because a broken resolver blocks for longer than any timeout of the client.
    """
    found = _settings_problem()
    if found:
        return found
    outcome = [f"no answer within {PROBE_SECONDS:g} s"]

    def ask() -> None:
        try:
            status = get_session().head(endpoint, timeout=PROBE_SECONDS - 1).status_code
            outcome[0] = f"it answers {status}" if status >= 500 else ""
        except Exception as error:  # whatever settings and networks bring
            outcome[0] = str(error) or type(error).__name__

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    proxy = next((name for name in _PROXIES if os.environ.get(name)), None)
    if outcome[0] and proxy and not urllib.request.proxy_bypass(httpx.URL(endpoint).host):
        return f"{outcome[0]}; {proxy} sets a proxy"
    return outcome[0] or None


def _settings_problem() -> str | None:
    """Return what the environment holds that the client cannot work with."""
    if environment.problems:
        return f"{environment.problems[0]}; correct or unset it"
    try:
        token = huggingface_hub.get_token() or ""
    except (OSError, ValueError) as error:
        return f"the token in {constants.HF_TOKEN_PATH} cannot be read ({error}); log in again with `hf auth login`"
    if not token.isascii():
        return f"the token in {_token_place()} is not plain ASCII, so it is no token; copy it again"
    try:
        get_session()
    except Exception as error:  # a proxy or a certificate of which no client can be made
        return _blame(error)
    return None


def _blame(error: Exception) -> str:
    """Return the line for a client that cannot be made, with the variable that it is due to."""
    for name in _PROXIES:
        value = os.environ.get(name)
        try:
            with httpx.Client(proxy=value or None, trust_env=False):
                pass
        except Exception as reason:
            shown = re.sub(r"//[^/@]*@", "//", str(value))  # without user and password
            why = "an unknown kind of proxy" if "Unknown scheme" in str(reason) else str(reason)
            return f"{name}={shown}: {why}; write such as http://host:8080 or socks5://host:1080, or unset it"
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        path = os.environ.get(name)
        if path and not os.path.exists(path):
            return f"{name}={path}: no such file; correct or unset it"
    return str(error) or type(error).__name__


def _token_place() -> str:
    """Return where the token comes from that the client sends."""
    names = [name for name in _TOKENS if os.environ.get(name, "").strip()]
    return f"{names[0]}, which goes before a login," if names else str(constants.HF_TOKEN_PATH)


def access_advice() -> str:
    """Return what to do where the hub lets one not in: log in, or see to the token that is sent."""
    with contextlib.suppress(OSError, ValueError):
        if huggingface_hub.get_token():
            return f"the token in {_token_place()} may have expired or lack access: renew or unset it"
    return "log in with `hf auth login`"


@contextmanager
def _errors(name: str, kind: str, offline: bool, trouble: str | None) -> Iterator[None]:
    """Turn what goes wrong in fetching into one `UserError` about the repository `name`."""
    endpoint = constants.ENDPOINT
    try:
        yield
    except (errors.HFValidationError, errors.HfUriError):
        raise UserError(f"{name}: neither a folder nor a name on the hub (owner/name); check the spelling") from None
    except errors.GatedRepoError:
        raise UserError(f"{name}: gated; accept its terms at {endpoint}, then {access_advice()}") from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"{name}: no such folder here, and no such repository at {endpoint}, or a private one; "
            f"check the name, or {access_advice()}"
        ) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{name}: the repository has no such revision; name a commit, tag or branch of it") from None
    except (
        errors.LocalEntryNotFoundError,
        errors.OfflineModeIsEnabled,
        httpx.HTTPError,
        ConnectionError,
    ) as error:
        answer = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
        status = None if answer is None else answer.status_code
        if status in (401, 403):
            raise UserError(f"{name}: {endpoint} refuses access ({status}); {access_advice()}") from None
        if offline:
            trouble = "HF_HUB_OFFLINE is set"
        trouble = trouble or (f"it answers {status}" if status else str(error).partition("\n")[0])
        raise HubUnreachable(
            f"{name}: not in the local cache, and the hub at {endpoint} cannot be reached "
            f"({printable(trouble, 240)}); name a local path, or what is embedded: {_EMBEDDED[kind]} (a run of what is "
            "embedded alone: --preset demo)"
        ) from None
    except ValueError as error:  # a page for people, such as the login of a network, where the hub's JSON should be
        raise UserError(
            f"{name}: {endpoint} does not answer as a hub does ({printable(error, 120)}); check HF_ENDPOINT and the "
            "network"
        ) from None
    except OSError as error:
        if error.errno is None:
            reason = printable(str(error).partition("\n")[0], 160)
            raise UserError(
                f"{name}: came damaged from {endpoint} ({reason}); try again, or over another network"
            ) from None
        raise UserError(
            f"{name}: cannot be stored in the cache {constants.HF_HUB_CACHE} ({error.strerror or error}); "
            "make room or set HF_HOME to a folder that can be written"
        ) from None


def fetch(name: str, revision: str | None, patterns: Sequence[str], kind: str = "model") -> Path:
    """Return the folder with files of a hub repository, which is named for the commit.

    Bars of downloads show on a terminal alone. Where the hub does not answer, what is in the local cache is taken at
    once; the library would retry for a minute.

    Args:
        name: owner/name.
        revision: commit, tag or branch.
        patterns: names of the files that are wanted, with `*`.
        kind: `model` or `dataset`.

    Raises:
        HubUnreachable: and the repository is not in the cache.
        UserError: no such repository or revision, gated, or the cache cannot be written.
    """
    offline = constants.HF_HUB_OFFLINE
    trouble = None if offline else problem(constants.ENDPOINT)
    shown = sys.stderr.isatty() or constants.HF_HUB_DISABLE_PROGRESS_BARS is not None  # the variable decides, if set
    constants.HF_HUB_OFFLINE = offline or trouble is not None
    try:
        with (
            _errors(name, kind, offline, trouble),
            nullcontext() if shown else huggingface_hub.utils.disable_progress_bars(),
        ):
            return Path(
                huggingface_hub.snapshot_download(
                    name,
                    repo_type=kind,
                    revision=revision,
                    allow_patterns=list(patterns),
                    ignore_patterns=["*/*"] if kind == "model" else None,
                    local_files_only=constants.HF_HUB_OFFLINE,
                )
            )
    finally:
        constants.HF_HUB_OFFLINE = offline
