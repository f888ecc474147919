"""A model that is merged already, with tokenizer and generation settings, in a folder that plain transformers loads.

The weights are float32 whatever the base's file holds: in 16 bits most of the small change that training made would
be rounded away, and the figures on the card would be of another model.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForSeq2SeqLM, GenerationConfig, PreTrainedModel

from detox.model import loading
from detox.stage.errors import UserError

if TYPE_CHECKING:
    import config


PROMPT_KEY = "prompt_template"
"""Where config.json of an exported model holds the prompt, `{dialogue}` in it."""
_IDS = ("bos_token_id", "decoder_start_token_id", "eos_token_id", "pad_token_id")
_DROPPED = {"_name_or_path", "auto_map", "prefix", "task_specific_params", "torch_dtype"}


def save(model: PreTrainedModel, folder: Path, base: config.Base, prompt: str, max_new_tokens: int) -> None:
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


def check(model: PreTrainedModel, folder: Path) -> None:
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
