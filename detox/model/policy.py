"""The policy: merged (base + supervised LoRA), a fresh LoRA that PPO trains, and a value head; and its export.

Merging the supervised checkpoint makes "the adapter switched off" the true reference: base and supervised adapter
together, in the one backbone that the policy uses.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from trl import AutoModelForSeq2SeqLMWithValueHead

from detox.model import adapters, loading, supported
from detox.stage.errors import UserError, printable

if TYPE_CHECKING:
    import config


LoraFactors = dict[str, tuple[Tensor, Tensor]]
"""Layer name -> (A [r, in], B [out, r] with the scaling multiplied in), float32, on the CPU."""


def lora_factors(model: PeftModel) -> LoraFactors:
    """Return the factors of the active adapter of `model`."""
    adapter = model.active_adapter
    layers: LoraFactors = {}
    for name, module in model.get_base_model().named_modules():
        if hasattr(module, "lora_A") and adapter in module.lora_A:
            down = module.lora_A[adapter].weight.detach().float().cpu()
            up = module.lora_B[adapter].weight.detach().float().cpu() * module.scaling[adapter]
            layers[name] = (down, up)
    return layers


def load_start(settings: config.Model) -> tuple[PreTrainedModel, LoraFactors]:
    """Load what PPO starts from: the base with its supervised adapter merged.

    Args:
        settings: base and supervised LoRA; the adapter `none` means none.

    Returns:
        The merged model in float32, and the factors of the adapter for the export, empty without one.

    Raises:
        UserError: one of them can't be loaded, or the base can't be run here.
    """
    base = loading.load_summarizer(settings.base, settings.revision)
    supported.check(base)
    if settings.adapter == "none":
        return base, {}
    supervised = adapters.load_adapter(base, settings.adapter, settings.adapter_revision)
    factors = lora_factors(supervised)
    with warnings.catch_warnings():  # an untied head, as Flan-T5 has or an adapter has made, stays untied
        warnings.filterwarnings("ignore", "Input and output embeddings are no longer tied", UserWarning)
        adapters.ignore_tied_heads()
        return supervised.merge_and_unload(), factors


def linear_layers(model: PreTrainedModel, scope: str, targets: str) -> list[str]:
    """Return the names of the linear layers that LoRA is put on.

    Args:
        model: an encoder-decoder.
        scope: `decoder`, or `all` for the encoder too.
        targets: `all-linear`, or last parts of names separated by commas, such as `q,v`.

    Raises:
        UserError: a target names no layer there.
    """
    head = model.get_output_embeddings()
    roots = [model.get_decoder()] if scope == "decoder" else [model.get_encoder(), model.get_decoder()]
    inside = {module for root in roots for module in root.modules() if isinstance(module, nn.Linear)}
    names = [name for name, module in model.named_modules() if module in inside and module is not head]
    if targets == "all-linear":
        return names
    wanted = [target.strip() for target in targets.split(",") if target.strip()]
    there = sorted({name.rsplit(".", 1)[-1] for name in names})
    unknown = [target for target in wanted if target not in there]
    if unknown or not wanted:
        raise UserError(
            f"LoRA targets {printable(targets)!r}: no linear layer is called {', '.join(unknown) or '(nothing)'}; "
            f"choose from {', '.join(there)}, or all-linear"
        )
    return [name for name in names if name.rsplit(".", 1)[-1] in wanted]


def make_policy(
    model: PreTrainedModel, settings: config.PPO, *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> AutoModelForSeq2SeqLMWithValueHead:
    """Put a fresh LoRA and a zero value head on a merged model.

    LoRA's B starts at zero, so the policy starts as the reference, exactly. The value head starts at zero and has no
    dropout (TRL's has 0.1), so that values and log-probabilities are the same whenever they are computed.

    Args:
        model: base with the supervised adapter merged, or the base alone.
        settings: rank, scope and targets of the LoRA.
        seed: of LoRA's A.
        dtype: of the frozen weights; what is trained stays float32.
    """
    lora = LoraConfig(
        task_type=TaskType.SEQ_2_SEQ_LM,
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=0.0,
        target_modules=linear_layers(model, settings.lora_scope, settings.lora_targets),
    )
    torch.manual_seed(seed)
    backbone: nn.Module = model
    backbone.to(dtype)
    policy = AutoModelForSeq2SeqLMWithValueHead.from_pretrained(get_peft_model(model, lora), summary_dropout_prob=0.0)
    nn.init.zeros_(policy.v_head.summary.weight)
    nn.init.zeros_(policy.v_head.summary.bias)
    return policy.eval()


def trainable(policy: nn.Module) -> dict[str, nn.Parameter]:
    """Return what PPO trains (LoRA factors and value head) by name."""
    return {name: parameter for name, parameter in policy.named_parameters() if parameter.requires_grad}


def save_adapter(
    policy: AutoModelForSeq2SeqLMWithValueHead,
    supervised: LoraFactors,
    base: str,
    revision: str | None,
    folder: Path,
) -> None:
    """Write the supervised and the PPO adapter as ONE ordinary PEFT adapter for the plain base.

    The sum of two low-rank products is one product of the stacked factors: B1 A1 + B2 A2 = [B1 B2] [A1; A2].

    Args:
        policy: as `make_policy` returned it.
        supervised: what was merged below it.
        base: name of the base, as the user gave it.
        revision: hub revision of the base, or None.
        folder: is made; gets `adapter_config.json` and `adapter_model.safetensors`.
    """
    stacked: LoraFactors = {}
    for factors in (supervised, lora_factors(policy.pretrained_model)):
        for name, (down, up) in factors.items():
            if name in stacked:
                down, up = torch.cat([stacked[name][0], down]), torch.cat([stacked[name][1], up], dim=1)
            stacked[name] = (down, up)
    ranks = {name: down.shape[0] for name, (down, _) in stacked.items()}
    usual = max(set(ranks.values()), key=list(ranks.values()).count)
    unusual = {name: rank for name, rank in ranks.items() if rank != usual}
    adapter = LoraConfig(
        task_type=TaskType.SEQ_2_SEQ_LM,
        base_model_name_or_path=base,
        revision=revision,
        r=usual,
        lora_alpha=usual,
        lora_dropout=0.0,
        target_modules=sorted(stacked),
        rank_pattern=unusual,
        alpha_pattern=unusual,
        inference_mode=True,
    )
    folder.mkdir()
    adapter.save_pretrained(str(folder))
    tensors = {}
    for name, (down, up) in stacked.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = down.contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = up.contiguous()
    save_file(tensors, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
