"""A checkpoint as one plain transformers model: merged weights, tokenizer, generation settings, model card.

The weights are float32 whatever the base's file holds: in 16 bits most of the small change that training made would
be rounded away, and the figures on the card would be of another model.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import huggingface_hub
import torch
from huggingface_hub import constants, errors
from huggingface_hub.utils import httpx
from transformers import AutoModelForSeq2SeqLM, GenerationConfig, PreTrainedModel

from detox.evaluation.checkpoints import Case
from detox.evaluation.examples import Results
from detox.model import hub, loading, policy
from detox.report import model_card
from detox.stage import artifacts
from detox.stage.errors import UserError, printable

if TYPE_CHECKING:
    import config


STAGE = "export"
PROMPT_KEY = "prompt_template"
"""Where config.json of an exported model holds the prompt, `{dialogue}` in it."""
_IDS = ("bos_token_id", "decoder_start_token_id", "eos_token_id", "pad_token_id")
_DROPPED = {"_name_or_path", "auto_map", "prefix", "task_specific_params", "torch_dtype"}


def check(settings: config.EvaluationStage) -> None:
    """Refuse early what can't be written at the end.

    Raises:
        UserError: the folder exists and may not be replaced; or the hub is out of reach, takes no token, or has a
            model under that name.
    """
    if settings.export is not None:
        _check_folder(Path(settings.export), settings.overwrite)
    if settings.push_to_hub is not None:
        with hub_errors(settings.push_to_hub):
            _check_repository(settings.push_to_hub, settings.overwrite)


def export(settings: config.EvaluationStage, case: Case, found: Results) -> None:
    """Write the model of a checkpoint to a folder, to the hub, or to both, as the settings ask, and say where it is.

    Args:
        settings: of the stage.
        case: the checkpoint.
        found: its results.

    Raises:
        UserError: as `check`; or prepared data or models are gone.
    """
    if settings.export is None and settings.push_to_hub is None:
        return
    loading.quiet()
    with contextlib.ExitStack() as stack:
        if settings.export is not None:
            folder = Path(settings.export)
            inputs = {"checkpoint": case.checkpoint, "evaluation": case.target}
            with artifacts.publish(
                folder, stage=STAGE, settings=settings, overwrite=settings.overwrite, inputs=inputs
            ) as draft:
                write(draft.path, settings, case, found)
            print(f"exported: {folder}")
        else:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            write(folder, settings, case, found)
        if settings.push_to_hub is not None:
            print(f"pushed: {push(folder, settings.push_to_hub)}")


def write(folder: Path, settings: config.EvaluationStage, case: Case, found: Results) -> None:
    """Write the files of an export into an empty folder."""
    prepared = artifacts.read_manifest(case.run / "prepared", "data_preparation", verify=False)
    base = case.training.model
    adapter = dataclasses.replace(base, adapter=str(case.checkpoint / "adapter"), adapter_revision=None)
    merged, _ = policy.load_start(adapter)
    _save_model(merged, folder, base, prepared["config"]["data"]["prompt"], settings.evaluation.max_new_tokens)
    _check_saved(merged, folder)
    card = model_card.text(settings, case, found, prepared)
    (folder / "README.md").write_text(card, encoding="utf-8")


def _save_model(model: PreTrainedModel, folder: Path, base: config.Base, prompt: str, max_new_tokens: int) -> None:
    """Write weights, settings and tokenizer; what need not differ from the base's files is taken from them."""
    as_it_was, tokenizer = loading.plain_files(base.base, base.revision)
    ids = {name: value for name in _IDS if (value := getattr(model.config, name, None)) is not None}
    model.generation_config = GenerationConfig(max_new_tokens=max_new_tokens, do_sample=False, num_beams=1, **ids)
    head = _separate_head(model)
    model.save_pretrained(folder)
    # Habits of generation, which the base may keep in config.json, are not those that were measured.
    dropped = _DROPPED | (vars(GenerationConfig()).keys() - ids.keys())
    kept = {key: value for key, value in as_it_was.items() if key not in dropped}
    described = kept | head | {"dtype": "float32", PROMPT_KEY: prompt}
    (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    for file in tokenizer:
        shutil.copyfile(file, folder / file.name)
    _name_tokenizer_for_all(folder / "tokenizer_config.json")
    for weights in folder.glob("*.safetensors"):  # which only their owner may read, unlike the rest
        shutil.copymode(folder / "config.json", weights)


def _name_tokenizer_for_all(file: Path) -> None:
    """Give the tokenizer class of transformers 5 the name that versions before it know too."""
    if file.exists():
        content = file.read_text(encoding="utf-8")
        file.write_text(content.replace('"TokenizersBackend"', '"PreTrainedTokenizerFast"'), encoding="utf-8")


def _separate_head(model: PreTrainedModel) -> dict[str, Any]:
    """Return what config.json has to say on the language-model head, so that every version loads the same model.

    Some versions of transformers see from the tie alone whether a T5 scales what its head reads, others call every T5
    tied, whatever its weights are. So a T5 that does not scale gets a head of its own, and one that scales and has a
    head of its own (an adapter of it was merged) gets the scale multiplied into that; config.json says so.
    """
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings().get_parameter("weight")
    scales = getattr(model.config, "scale_decoder_outputs", None)
    is_tied = head.weight.data_ptr() == embedding.data_ptr()
    if scales is not None and scales is not is_tied:
        factor = model.config.d_model**-0.5 if scales else 1.0
        head.weight = torch.nn.Parameter(head.weight.detach() * factor)
        scales = model.config.scale_decoder_outputs = False
    if scales is None and not is_tied:  # then transformers ties nothing else either
        for part in (model.get_encoder(), model.get_decoder()):
            own: torch.nn.Module = part.get_input_embeddings()
            own.weight = torch.nn.Parameter(own.get_parameter("weight").detach().clone())
    described = {} if scales is None else {"scale_decoder_outputs": scales}
    return described | {"tie_word_embeddings": head.weight.data_ptr() == embedding.data_ptr()}


def _check_saved(model: PreTrainedModel, folder: Path) -> None:
    """Demand that plain transformers loads from the folder what was put there, to the bit."""
    loaded = AutoModelForSeq2SeqLM.from_pretrained(folder, local_files_only=True)
    before, after = model.state_dict(), loaded.state_dict()
    changed = [name for name in sorted(before.keys() | after.keys()) if not _equal(before.get(name), after.get(name))]
    scaled = (getattr(one.config, "scale_decoder_outputs", None) for one in (model, loaded))
    if len(set(scaled)) > 1:
        changed.append("the scale of the head's input")
    if changed:
        raise UserError(
            f"--export: transformers loads {changed[0]} of this model other than it was saved, so it can't be "
            "exported whole; use the base with the checkpoint's adapter instead"
        )


def _equal(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    return one is not None and other is not None and one.dtype == other.dtype and torch.equal(one, other)


def _check_folder(folder: Path, overwrite: bool) -> None:
    if not os.path.lexists(folder):
        return
    try:
        stage = json.loads((folder / artifacts.MANIFEST).read_text(encoding="utf-8"))["stage"]
    except (OSError, ValueError, KeyError, TypeError):
        stage = None
    if stage != STAGE:
        raise UserError(f"--export={folder}: exists and is no earlier export, so it stays; choose another folder")
    if not overwrite:
        raise UserError(f"--export={folder}: exists; pass --overwrite to replace it, or choose another folder")


# -------------------------------------------------------------------------------------------------------- hub


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


def _check_repository(name: str, overwrite: bool) -> None:
    api = huggingface_hub.HfApi()
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
