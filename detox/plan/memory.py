"""How much memory PPO will take, from settings and the sizes of the models alone: arithmetic, no weights.

Everything is counted in bytes, for the worst case: every prompt of a rollout as long as the longest, every
summary as long as the limit. w stands for the bytes of a frozen weight (4 or 2), d for the model's width.

- base model: w a parameter. The reference is inside it. Where it is sharded (`detox.model.sharding`), a process holds
  its part of every block, the one that it works on and the next in full, and all that is no block.
- adapters: 8 a parameter (float32 weight and gradient); the value head likewise.
- optimizer: 20 a parameter that is trained: Adam's two moments, and the copy of the weight and of both that
  an update is taken back to where it fails.
- reward model: w a parameter.
- rollout: keys and values of prompts and summaries, hidden states, and the merged weights (in float32, if they
  are not sharded).
- update: what the backward pass of one microbatch needs. The packed engine keeps of every token in every
  layer: the residual stream once a norm; query, key, value and output of attention (in float32 on a CPU);
  the arguments of the activation; the input of each layer with an adapter; and of all prompts of a rollout,
  keys and values before LoRA, where the encoder is frozen. Hugging Face's modules keep more:
  `_kept_by_modules`.
- logits: of one step of the rollout, or of one chunk of the fused head in the update, as the peak is in
  either.
- head laid out for sampling, on a CPU (`detox.model.layers.packed_product`): it is let go before the update, whose
  memory malloc has kept from the update before.
- kernels and allocator, on a CPU: what torch and oneDNN load and compile once a model runs, and freed memory that
  malloc keeps. It was measured, and is about the same for models of 16 and of 420 MB.
- holes between buffers, on a CPU with Hugging Face's modules: their keys and values grow by copies, each longer than
  the one before, between which little else fits.

The peak is what stays (weights, optimizer, libraries) and the larger of rollout and update.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from detox.model.allocator import KEPT
from detox.model.devices import choose_dtype, traits
from detox.model.layers import packs
from detox.model.logprobs import CHUNK
from detox.model.packed_t5 import KNOWN_BYTES
from detox.plan.model_sizes import Sizes, reads_prompt, rows
from detox.stage import main_memory

if TYPE_CHECKING:
    import config


GIB = 2**30
KERNELS = {torch.float32: 58 * 2**20, torch.bfloat16: 84 * 2**20}
"""On a CPU, bytes that kernels and allocator take; in bfloat16 oneDNN compiles more of them."""
GROWTH = {torch.float32: "60 MB", torch.bfloat16: "160 MB"}
"""What measured peaks on a CPU were above the plan after 100 updates of the demo and 60 of a model of 83 MB, at most;
as many kernels are kept as `detox.model.allocator` says."""
OUTPUTS = ("o", "out_proj", "wo", "fc2")
"""Last parts of the names of layers that read what attention or the activation gave out."""


@dataclass(frozen=True)
class Plan:
    """Bytes by part, and the sizes that they were counted for."""

    parts: dict[str, int]
    peak: int
    microbatch: int
    query_tokens: int
    new_tokens: int
    engine: str
    dtype: torch.dtype
    decoder: int = 0
    """Of sharded weights, what a rollout takes beyond the peak, where that is free, to hold the whole decoder."""


def plan(
    settings: config.PPOTraining,
    sizes: Sizes,
    reward_parameters: int,
    device: torch.device,
    query_tokens: int,
    packed: bool,
    shards: int = 1,
) -> Plan:
    """Return the memory that one process of training takes.

    Args:
        settings: of the stage; of several processes, those of one (`config.PPO.share`).
        sizes: of the summarizer.
        reward_parameters: of the classifier.
        device: on a CPU the libraries count too.
        query_tokens: of the longest prompt.
        packed: for the packed engine, or that of Hugging Face.
        shards: processes that the frozen blocks are spread over.
    """
    ppo, dtype = settings.ppo, choose_dtype(settings.dtype, device)
    w, on_cpu = dtype.itemsize, device.type == "cpu"
    new_tokens = settings.rollout.max_new_tokens
    answers = ppo.effective_microbatch * new_tokens
    # What a rollout leaves: the encoder's output and the hidden states that predicted each token.
    left = ppo.batch_size * (query_tokens * sizes.d * w + new_tokens * sizes.d * 4)
    rollout = left + _rollout(settings, sizes, device, query_tokens, packed, whole=shards == 1)
    update = left + _update(settings, sizes, device, query_tokens, packed)
    step_logits = ppo.batch_size * sizes.vocabulary * (13 if w == 4 else 15)
    chunk_logits = min(CHUNK, answers) * w + min(CHUNK, answers, traits(device).softmax_rows) * (8 if w == 4 else 12)
    chunk_logits *= sizes.vocabulary
    in_rollout = rollout + step_logits >= update + chunk_logits
    adapters, value_head = sizes.adapter_parameters(ppo.lora_r), sizes.d + 1
    weights = sizes.weights
    if shards > 1:
        blocks = sizes.encoder_blocks + sizes.decoder_blocks
        weights += blocks // shards - blocks + 2 * sizes.largest_block
    parts = {
        "base model": weights * w,
        "adapters": adapters * 8,
        "value head": value_head * 8,
        "optimizer": (adapters + value_head) * 20,
        "reward model": reward_parameters * w,
        "activations of the rollout": rollout,
        "activations of the update": update,
        "logits": step_logits if in_rollout else chunk_logits,
    }
    if on_cpu:
        parts["kernels and allocator"] = KERNELS[dtype]
        if packs(dtype, sizes.vocabulary):
            parts["head laid out for sampling"] = sizes.vocabulary * sizes.d * w
        if not packed:
            parts["holes between buffers"] = min(rollout, update, KEPT)
        parts["interpreter and libraries"] = int(main_memory.peak_mb() * 2**20)
    peak = sum(parts.values()) - (update if in_rollout else rollout)
    engine = "packed" if packed else "Hugging Face"
    decoder = (sizes.decoder_blocks - sizes.decoder_blocks // shards) * w
    return Plan(parts, peak, ppo.effective_microbatch, query_tokens, new_tokens, engine, dtype, decoder)


def _rollout(
    settings: config.PPOTraining, sizes: Sizes, device: torch.device, query_tokens: int, packed: bool, whole: bool
) -> int:
    """Bytes that encoding or generating takes, whichever is more; of a `whole` base also the merged weights,
    in bfloat16 on a CPU those that are laid out anew."""
    ppo, dtype = settings.ppo, choose_dtype(settings.dtype, device)
    tokens, a = ppo.batch_size * query_tokens, _inside_attention(dtype, device, packed)
    prompts = different_prompts(ppo) if packed else ppo.batch_size
    growing = 2 * sizes.decoder_layers * ppo.batch_size * settings.rollout.max_new_tokens * sizes.inner * a
    generate = prompt_cache(sizes, prompts, query_tokens, a) + 2 * growing  # it exists twice while it grows
    if dtype == torch.float32 and whole:
        generate += sizes.lora_weights * 4
    if dtype == torch.bfloat16 and device.type == "cpu" and packed:
        generate += sizes.decoder_blocks * dtype.itemsize  # laid out for few rows
    at_once = min(tokens, max(traits(device).encode_rows, query_tokens)) if packed else tokens
    return max(generate, _encoding(sizes, at_once, dtype.itemsize))


def _update(settings: config.PPOTraining, sizes: Sizes, device: torch.device, query_tokens: int, packed: bool) -> int:
    """Bytes that the backward pass of one microbatch needs."""
    ppo, dtype = settings.ppo, choose_dtype(settings.dtype, device)
    w, tokens = dtype.itemsize, ppo.effective_microbatch * query_tokens
    answers = ppo.effective_microbatch * settings.rollout.max_new_tokens
    if not packed:
        return _kept_by_modules(sizes, answers, tokens, ppo.lora_r, w)
    known = prompt_cache(sizes, different_prompts(ppo), query_tokens, w)
    shared = known if known <= KNOWN_BYTES and not sizes.encoder_is_trained else 0
    return shared + _kept_by_packed(sizes, answers, tokens, ppo.lora_r, w, _inside_attention(dtype, device, packed))


def _inside_attention(dtype: torch.dtype, device: torch.device, packed: bool) -> int:
    """Bytes of a number inside attention."""
    return 4 if packed and device.type == "cpu" else dtype.itemsize


def different_prompts(ppo: config.PPO) -> int:
    """Return of how many dialogues one process samples at once; its samples of one share keys and values."""
    return math.ceil(ppo.batch_size / ppo.samples)


def prompt_cache(sizes: Sizes, prompts: int, query_tokens: int, w: int) -> int:
    """Bytes of the keys and values of the prompts' encoder outputs."""
    return 2 * sizes.decoder_layers * prompts * query_tokens * sizes.inner * w


def _encoding(sizes: Sizes, rows: int, w: int) -> int:
    """Bytes that the widest layer takes without a graph: residual stream, normed input, and three buffers."""
    return rows * (8 * sizes.d + w * sizes.d + 3 * w * max(sizes.d_ff, sizes.inner))


def _kept_by_packed(sizes: Sizes, answers: int, tokens: int, r: int, w: int, a: int) -> int:
    """Bytes that the packed engine keeps for a backward pass; `a` are those of a number inside attention."""
    stream = 4 * sizes.d
    row = 3 * stream + 6 * sizes.inner * a + sizes.activation * sizes.d_ff * w
    kept = sizes.decoder_layers * (answers * row + tokens * 2 * sizes.inner * a) + tokens * sizes.d * w
    if sizes.encoder_is_trained:
        row = 2 * stream + 4 * sizes.inner * a + sizes.activation * sizes.d_ff * w
        kept += sizes.encoder_layers * tokens * row
    inputs = {_input(name, fan_in): (name, fan_in) for name, (fan_in, _) in sizes.adapted.items()}
    for name, fan_in in inputs.values():
        kept += 0 if reads_prompt(name) else rows(name, answers, tokens) * fan_in * w
    kept += sum(rows(name, answers, tokens) * r * w for name in sizes.adapted)
    # In the backward pass the gradients of one layer's widest tensors exist as well.
    return kept + max(answers, tokens) * 2 * max(sizes.activation * sizes.d_ff * w, 2 * sizes.inner * a)


def _kept_by_modules(sizes: Sizes, answers: int, tokens: int, r: int, w: int) -> int:
    """Bytes that the modules of `transformers` keep for a backward pass, LoRA layers included.

    To what the packed engine keeps they add a second buffer a norm, the steps of a gated activation (six
    buffers where two would do), and with bfloat16 weights a float32 copy of the input of each LoRA layer.
    """
    row = 3 * 2 * 4 * sizes.d + 6 * sizes.inner * w + (6 if sizes.activation == 2 else 2) * sizes.d_ff * w
    kept = sizes.decoder_layers * (answers * row + tokens * 2 * sizes.inner * w) + tokens * sizes.d * w
    if sizes.encoder_is_trained:
        row = 2 * 2 * 4 * sizes.d + 4 * sizes.inner * w + (6 if sizes.activation == 2 else 2) * sizes.d_ff * w
        kept += sizes.encoder_layers * tokens * row
    inputs = {_input(name, fan_in) if w == 4 else name: (name, fan_in) for name, (fan_in, _) in sizes.adapted.items()}
    for name, fan_in in inputs.values():
        kept += 0 if w == 4 and reads_prompt(name) else rows(name, answers, tokens) * fan_in * 4
    kept += sum(rows(name, answers, tokens) * r * 4 for name in sizes.adapted)
    return kept + max(answers, tokens) * 2 * max(sizes.activation * sizes.d_ff * w, 2 * sizes.inner * w)


def _input(name: str, fan_in: int) -> tuple[str, int, bool, bool]:
    """Return what tells one layer's input from another's: query, key and value read the same one."""
    parent, leaf = name.rsplit(".", 1)
    return parent, fan_in, leaf in OUTPUTS, reads_prompt(name)


def largest_microbatch(settings: config.PPOTraining, *rest: Any) -> int | None:
    """Return the largest microbatch that fits `--plan-budget-gb`, if there is one; arguments as of `plan`."""
    if settings.plan_budget_gb is None:
        return None
    budget, minibatch = settings.plan_budget_gb * GIB, settings.ppo.minibatch_size
    for size in (size for size in range(minibatch, 0, -1) if minibatch % size == 0):
        smaller = replace(settings, ppo=replace(settings.ppo, microbatch_size=size))
        if plan(smaller, *rest).peak <= budget:
            return size
    return None
