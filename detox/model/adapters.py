"""Supervised LoRA adapters, as PEFT and the tools around it write them, put on their base."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping, Set
from dataclasses import fields
from importlib import metadata
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from detox.model import sources, weights
from detox.model.sources import Source
from detox.stage import notes, paths
from detox.stage.errors import UserError, printable

if TYPE_CHECKING:
    from peft import PeftModel

_FILES = ("adapter_config.json", "adapter_model.safetensors")
_WRAPPERS = ("base_model.model.", "module.", "pretrained_model.", "_orig_mod.", "_fsdp_wrapped_module.")
"""What DDP, TRL's value-head model, torch.compile and FSDP put before the names of what they wrap."""
_FACTOR = re.compile(r"(.+)\.lora_([AB])(?:\.([^.]+))?\.weight")


def load_adapter(model: PreTrainedModel, name: str, revision: str | None = None) -> PeftModel:
    """Put a trained LoRA on its base.

    Args:
        model: the base; is changed in place. A layer with a LoRA whose weight is tied to the embedding gets one of its
            own, so that a later merge changes that layer alone.
        name: `demo:<name>`, a folder, or a hub name.
        revision: commit, tag or branch of a hub name.

    Returns:
        The base with the adapter, named `default`, frozen, in eval mode.

    Raises:
        UserError: not found, not a plain LoRA, for another base, or its weights are damaged or not finite.
    """
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    source = sources.locate(name, revision, _FILES, ("adapter_model.bin",))
    _check_plain_lora(source)
    found = weights.find(source, "adapter_model.safetensors", "adapter_model.bin")
    factors = _factors(source, weights.read(source, found), model)
    broken = weights.not_finite(factors.items())
    if broken is not None:
        raise UserError(
            f"{source.name}: the adapter's weights are not finite (NaN or infinite in {printable(broken, 100)}): its "
            "training went wrong; name another one as --model.adapter, or train it anew"
        )
    _check_base(source, factors, model)
    _untie(model, factors)
    try:
        settings: Any = LoraConfig.from_peft_type(**_known(source, {field.name for field in fields(LoraConfig)}))
        settings.task_type, settings.inference_mode = "SEQ_2_SEQ_LM", True
        settings.base_model_name_or_path = model.name_or_path  # what it is called here
        with warnings.catch_warnings():
            ignore_tied_heads()
            adapted = get_peft_model(model, settings)
        _check_complete(source, factors, adapted)
        _check_scaling(source, adapted)
        set_peft_model_state_dict(adapted, {f"base_model.model.{key}": tensor for key, tensor in factors.items()})
    except sources.FAILURES as error:
        raise UserError(
            f"{source.name}: cannot be loaded as a LoRA adapter ({printable(error, 300)}); "
            "check its adapter_config.json, or name another one"
        ) from None
    vars(adapted)["_resolved_revision"] = source.commit
    return adapted.requires_grad_(False).eval()


def ignore_tied_heads() -> None:
    """Ignore what peft says of a LoRA on a tied head, which is tied no more; inside of `warnings.catch_warnings`."""
    warnings.filterwarnings("ignore", "Model (with|has) `tie_word_embeddings=True`", UserWarning)


def fold_head(adapted: PeftModel) -> PeftModel:
    """Merge the LoRA of the language-model head, if there is one, for engines, which read the head's weight alone."""
    base: Any = adapted.get_base_model()
    head: Any = base.get_output_embeddings()
    if hasattr(head, "lora_A"):
        head.merge()
        base.set_output_embeddings(head.get_base_layer())
    return adapted


def _check_plain_lora(source: Source) -> None:
    if not source.has("adapter_config.json"):
        inside = sorted(path.parent.name for path in source.folder.glob("*/adapter_config.json"))
        advice = f"name {source.name.rstrip('/')}/{inside[-1]}" if inside else "name one, or `none`"
        raise UserError(f"{source.name}: has no adapter_config.json, so it is no PEFT adapter; {advice}")
    settings = source.json("adapter_config.json")
    kind, task = settings.get("peft_type"), settings.get("task_type")
    if kind != "LORA":
        raise UserError(f"{source.name}: a PEFT adapter of type {kind}; only LoRA can be merged and exported here")
    if task not in (None, "SEQ_2_SEQ_LM"):
        raise UserError(f"{source.name}: a LoRA for {task}; name one for an encoder-decoder (SEQ_2_SEQ_LM)")
    refused = ["use_dora", "lora_bias", "modules_to_save", "trainable_token_indices", "layer_replication"]
    refused += ["target_parameters", "alora_invocation_tokens", "use_qalora", "use_bdlora", "velora_config"]
    extras = [f"{key}={settings[key]}" for key in refused if settings.get(key)]
    if settings.get("bias", "none") != "none":
        extras.append(f"bias={settings['bias']}")
    start = settings.get("init_lora_weights")
    if isinstance(start, str) and start not in ("gaussian", "orthogonal"):
        extras.append(f"init_lora_weights={start}, which changes the base")
    if extras:
        raise UserError(f"{source.name}: LoRA with {printable(', '.join(extras), 120)}; train a plain LoRA, without it")


def _known(source: Source, names: Set[str]) -> dict[str, Any]:
    """Return the settings of an adapter that this PEFT knows by `names`; the user is told which others it has."""
    settings = source.json("adapter_config.json")
    others = [f"{name}={value}" for name, value in settings.items() if name not in names and value]
    if others:
        notes.tell(
            f"{source.name}: peft {metadata.version('peft')} does not know {printable(', '.join(others), 200)}, and "
            "the adapter is used without: compare it with what wrote it"
        )
    return {name: value for name, value in settings.items() if name in names}


def _factors(source: Source, tensors: Mapping[str, Tensor], model: PreTrainedModel) -> dict[str, Tensor]:
    """Return the factors of the LoRA by plain names (`<layer>.lora_A.weight`), whatever stands around these.

    A value head is no part of the policy and left out, and so are copies of the base's own weights, which PEFT writes
    with an adapter of a head or embedding.

    Raises:
        UserError: something is neither, or there are several adapters.
    """
    own = model.state_dict()
    factors: dict[str, Tensor] = {}
    names = set()
    for key, tensor in tensors.items():
        plain = _unwrapped(key)
        match = _FACTOR.fullmatch(plain)
        if match:
            names.add(match[3] or "default")
            factors[f"{match[1]}.lora_{match[2]}.weight"] = tensor
            continue
        weight = own.get(plain.replace(".base_layer.", "."))
        if plain.startswith("v_head.") or (weight is not None and _same(weight, tensor)):
            continue
        if ".lora_embedding_" in plain:
            why = "a LoRA on an embedding; only those on linear layers can be merged here"
        elif weight is not None:
            why = "weights of its own for that layer, other than the base's; merge it, and name the result as the base"
        else:
            why = "no part of a LoRA on linear layers; save the adapter alone, with save_pretrained() of peft"
        raise UserError(f"{source.name}: holds {printable(key, 100)}: {why}")
    if len(names) > 1:
        raise UserError(
            f"{source.name}: holds several adapters ({', '.join(sorted(names))}); save the one to use alone"
        )
    return factors


def _unwrapped(key: str) -> str:
    before = ""
    while key != before:
        before = key
        for wrapper in _WRAPPERS:
            key = key.removeprefix(wrapper)
    return key.replace("._orig_mod.", ".").replace("._fsdp_wrapped_module.", ".")


def _same(weight: Tensor, tensor: Tensor) -> bool:
    return weight.shape == tensor.shape and torch.equal(weight.to(tensor.dtype), tensor)


def _check_base(source: Source, factors: Mapping[str, Tensor], model: PreTrainedModel) -> None:
    """Demand that each factor meets a linear layer of its size, before the base is touched."""
    advice = _advice(source, model, "the base has changed since")
    for key, tensor in factors.items():
        layer, _, factor = key.removesuffix(".weight").rpartition(".")
        try:
            module = model.get_submodule(layer)
        except AttributeError:
            raise UserError(f"{source.name}: adapts {layer}, which the base does not have; {advice}") from None
        if not isinstance(module, nn.Linear) or tensor.dim() != 2:
            raise UserError(f"{source.name}: adapts {layer}, which is no linear layer of the base; {advice}")
        size, wanted = (
            (tensor.shape[1], module.in_features) if factor == "lora_A" else (tensor.shape[0], module.out_features)
        )
        if size != wanted:
            raise UserError(f"{source.name}: has size {size} at {layer}, where the base has {wanted}; {advice}")
    if not factors:
        raise UserError(f"{source.name}: an empty adapter; name another one, or `none`")


def _check_complete(source: Source, factors: Mapping[str, Tensor], adapted: Any) -> None:
    """Demand that file and settings of an adapter speak of the same layers."""
    made = {_unwrapped(key) for key, _ in adapted.named_parameters() if ".lora_" in key}
    asked = {key.replace(".default.", ".") for key in made}
    again = "save the adapter again"
    for odd, what, otherwise in (
        (asked - set(factors), "lacks", f"the file is incomplete, so {again}"),
        (set(factors) - asked, "holds, unasked,", again),
    ):
        if odd:
            raise UserError(
                f"{source.name}: its file {what} {len(odd)} tensors of the layers that its adapter_config.json names, "
                f"such as {printable(min(odd), 100)}; {_advice(source, adapted.get_base_model(), otherwise)}"
            )


def _check_scaling(source: Source, adapted: nn.Module) -> None:
    from peft.tuners.lora import LoraLayer

    for name, layer in adapted.named_modules():
        if isinstance(layer, LoraLayer) and not math.isfinite(layer.scaling["default"]):
            raise UserError(
                f"{source.name}: its adapter_config.json scales {printable(name, 100)} by {layer.scaling['default']}; "
                "mend lora_alpha and alpha_pattern there, or name another adapter"
            )


def _advice(source: Source, model: PreTrainedModel, otherwise: str) -> str:
    """Return what to do about an adapter that does not fit: take its base, unless that is what was taken."""
    trained_on: Any = source.json("adapter_config.json").get("base_model_name_or_path")
    if trained_on == model.name_or_path or paths.same(trained_on, model.name_or_path):
        return f"it was trained on this very base, so {otherwise}" if "changed" in otherwise else otherwise
    return (
        f"it was trained on {printable(trained_on or 'another model', 80)}: take that as the base, or another adapter"
    )


def _untie(model: PreTrainedModel, factors: Mapping[str, Tensor]) -> None:
    """Give layers with a LoRA weights of their own where these are the embedding's too."""
    embedding = model.get_input_embeddings().get_parameter("weight")
    for layer in {key.rsplit(".", 2)[0] for key in factors}:
        module = model.get_submodule(layer)
        if module.get_parameter("weight").data_ptr() == embedding.data_ptr():
            module.weight = nn.Parameter(embedding.detach().clone())
