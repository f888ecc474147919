"""How much memory PPO will take, from settings and config.json alone: arithmetic, no weights.

Everything is counted in bytes, for the worst case: every prompt of a rollout as long as the longest, every
summary as long as the limit. w stands for the bytes of a frozen weight (4 or 2), d for the model's width.

- backbone: w a parameter. The reference is inside it.
- adapters: 8 a parameter (float32 weight and gradient); the value head likewise.
- optimizer: 20 a parameter that is trained: Adam's two moments, and the copy of the weight and of both that
  an update is taken back to where it fails.
- reward model: w a parameter.
- rollout: keys and values of prompts and summaries, hidden states, and (in float32) the merged weights.
- update: what the backward pass of one microbatch needs. The packed engine keeps of every token in every
  layer: the residual stream once a norm; query, key, value and output of attention (in float32 on a CPU);
  the arguments of the activation; the input of each layer with an adapter; and of all prompts of a rollout,
  keys and values before LoRA, where the encoder is frozen. Hugging Face's modules keep more:
  `_kept_by_modules`.
- logits: of one step of the rollout, or of one chunk of the fused head in the update, as the peak is in
  either.
- allocator and kernels, on a CPU: a measured share of what a phase allocates. malloc keeps most of what is freed,
  in pieces; for bfloat16 weights, oneDNN also keeps a kernel for each shape and repacks weights.

The peak is what stays (weights, optimizer, libraries) and the larger of rollout and update.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM, AutoModelForSequenceClassification, PretrainedConfig

import config
from detox import artifacts, models, policy
from detox.engine import choose_dtype
from detox.logprobs import CHUNK

GIB = 2**30
ENCODE_ROWS = 1536
"""Tokens that the packed engine encodes at once."""
KNOWN_BYTES = 2**28
"""Most that the packed engine keeps of keys and values of a rollout's prompts between its passes."""
OVERHEAD = {torch.float32: 0.3, torch.bfloat16: 0.65}
"""On a CPU, memory that a phase takes beyond what it asks for, as a share of that."""
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


@dataclass(frozen=True)
class Sizes:
    """What the arithmetic reads off an encoder-decoder.

    Attributes:
        d, inner, d_ff: widths of residual stream, attention (heads x head size) and feed-forward layer.
        activation: arguments of the activation, in units of d_ff: 2 where it is gated.
        weights: parameters of the backbone.
        adapted: layers with a LoRA, name -> (in, out).
    """

    d: int
    inner: int
    d_ff: int
    activation: int
    vocabulary: int
    heads: int
    encoder_layers: int
    decoder_layers: int
    weights: int
    adapted: dict[str, tuple[int, int]]

    @classmethod
    def of(cls, settings: PretrainedConfig, ppo: config.PPO, untied: bool = False) -> Sizes:
        """Read the sizes off a model built without memory.

        Args:
            settings: of the model.
            ppo: where the LoRA goes.
            untied: the head has weights of its own, whatever `settings` says of new models.
        """
        with torch.device("meta"):
            model = AutoModelForSeq2SeqLM.from_config(settings)
        head = model.get_output_embeddings()
        weights = sum(parameter.numel() for parameter in model.parameters())
        if untied and head.weight is model.get_input_embeddings().weight:
            weights += head.weight.numel()
        names = policy.linear_layers(model, ppo.lora_scope, ppo.lora_targets)
        layers = {name: model.get_submodule(name) for name in names}
        heads = settings.num_attention_heads
        return cls(
            d=settings.hidden_size,
            inner=heads * getattr(settings, "d_kv", settings.hidden_size // heads),
            d_ff=getattr(settings, "d_ff", 0) or settings.decoder_ffn_dim,
            activation=2 if getattr(settings, "is_gated_act", False) else 1,
            vocabulary=head.weight.shape[0],
            heads=heads,
            encoder_layers=getattr(settings, "encoder_layers", settings.num_hidden_layers),
            decoder_layers=getattr(settings, "decoder_layers", None) or settings.num_decoder_layers,
            weights=weights,
            adapted={name: (layer.in_features, layer.out_features) for name, layer in layers.items()},
        )

    @property
    def lora_weights(self) -> int:
        """Weights below the adapters."""
        return sum(fan_in * fan_out for fan_in, fan_out in self.adapted.values())

    def adapter_parameters(self, r: int) -> int:
        return sum(r * (fan_in + fan_out) for fan_in, fan_out in self.adapted.values())


def plan(
    settings: config.PPOTraining,
    sizes: Sizes,
    reward_parameters: int,
    device: torch.device,
    query_tokens: int,
    packed: bool,
) -> Plan:
    """Return the memory that training takes.

    Args:
        settings: of the stage; its microbatch size counts.
        sizes: of the summarizer.
        reward_parameters: of the classifier.
        device: on a CPU the libraries count too.
        query_tokens: of the longest prompt.
        packed: for the packed engine, or that of Hugging Face.
    """
    ppo, dtype = settings.ppo, choose_dtype(settings.dtype, device)
    w, on_cpu = dtype.itemsize, device.type == "cpu"
    a = 4 if packed and on_cpu else w  # inside attention
    rollout_tokens, update_tokens = ppo.batch_size * query_tokens, ppo.effective_microbatch * query_tokens
    new_tokens = settings.rollout.max_new_tokens
    answers = ppo.effective_microbatch * new_tokens
    adapters, value_head = sizes.adapter_parameters(ppo.lora_r), sizes.d + 1
    # What a rollout leaves: the encoder's output and the hidden states that predicted each token.
    left = rollout_tokens * sizes.d * w + ppo.batch_size * new_tokens * sizes.d * 4
    generate = _generating(sizes, ppo.batch_size, query_tokens, new_tokens, a)
    if dtype == torch.float32:
        generate += sizes.lora_weights * 4
    encode = _encoding(sizes, min(rollout_tokens, max(ENCODE_ROWS, query_tokens)) if packed else rollout_tokens, w)
    kept = _kept_by_packed(sizes, answers, update_tokens, ppo.lora_r, w, a) + _known_by_packed(sizes, rollout_tokens, w)
    if not packed:
        kept = _kept_by_modules(sizes, answers, update_tokens, ppo.lora_r, w)
    step_logits = ppo.batch_size * sizes.vocabulary * (13 if w == 4 else 15)
    chunk_logits = min(CHUNK, answers) * sizes.vocabulary * (12 if w == 4 else 14)
    rollout, update = left + max(generate, encode), left + kept
    phase = max(rollout + step_logits, update + chunk_logits)
    in_rollout = phase == rollout + step_logits
    parts = {
        "backbone": sizes.weights * w,
        "adapters": adapters * 8,
        "value head": value_head * 8,
        "optimizer": (adapters + value_head) * 20,
        "reward model": reward_parameters * w,
        "activations of the rollout": rollout,
        "activations of the update": update,
        "logits": step_logits if in_rollout else chunk_logits,
    }
    if on_cpu:
        parts["allocator and kernels"] = int(phase * OVERHEAD[dtype])
        parts["interpreter and libraries"] = int(artifacts.peak_memory_mb() * 2**20)
    peak = sum(parts.values()) - (update if in_rollout else rollout)
    engine = "packed" if packed else "Hugging Face"
    return Plan(parts, peak, ppo.effective_microbatch, query_tokens, new_tokens, engine, dtype)


def _generating(sizes: Sizes, batch: int, query_tokens: int, new_tokens: int, a: int) -> int:
    """Bytes of both caches, of which the growing one exists twice while it grows."""
    memory = 2 * sizes.decoder_layers * batch * query_tokens * sizes.inner * a
    return memory + 2 * 2 * sizes.decoder_layers * batch * new_tokens * sizes.inner * a


def _encoding(sizes: Sizes, rows: int, w: int) -> int:
    """Bytes that the widest layer takes without a graph: residual stream, normed input, and three buffers."""
    return rows * (8 * sizes.d + w * sizes.d + 3 * w * max(sizes.d_ff, sizes.inner))


def _known_by_packed(sizes: Sizes, tokens: int, w: int) -> int:
    """Bytes of the prompts' keys and values, before LoRA, that all passes over a rollout share; none if many."""
    known = 2 * sizes.decoder_layers * tokens * sizes.inner * w
    trained = any(_stack(name) == "encoder" for name in sizes.adapted)
    return 0 if trained or known > KNOWN_BYTES else known


def _kept_by_packed(sizes: Sizes, answers: int, tokens: int, r: int, w: int, a: int) -> int:
    """Bytes that the packed engine keeps for a backward pass; `a` are those of a number inside attention."""
    stream = 4 * sizes.d
    row = 3 * stream + 6 * sizes.inner * a + sizes.activation * sizes.d_ff * w
    kept = sizes.decoder_layers * (answers * row + tokens * 2 * sizes.inner * a) + tokens * sizes.d * w
    if any(_stack(name) == "encoder" for name in sizes.adapted):
        row = 2 * stream + 4 * sizes.inner * a + sizes.activation * sizes.d_ff * w
        kept += sizes.encoder_layers * tokens * row
    inputs = {_input(name, fan_in): (name, fan_in) for name, (fan_in, _) in sizes.adapted.items()}
    for name, fan_in in inputs.values():
        kept += 0 if _reads_prompt(name) else _rows(name, answers, tokens) * fan_in * w
    kept += sum(_rows(name, answers, tokens) * r * w for name in sizes.adapted)
    # In the backward pass the gradients of one layer's widest tensors exist as well.
    return kept + max(answers, tokens) * 2 * max(sizes.activation * sizes.d_ff * w, 2 * sizes.inner * a)


def _kept_by_modules(sizes: Sizes, answers: int, tokens: int, r: int, w: int) -> int:
    """Bytes that the modules of `transformers` keep for a backward pass, LoRA layers included.

    To what the packed engine keeps they add a second buffer a norm, the steps of a gated activation (six
    buffers where two would do), and with bfloat16 weights a float32 copy of the input of each LoRA layer.
    """
    row = 3 * 2 * 4 * sizes.d + 6 * sizes.inner * w + (6 if sizes.activation == 2 else 2) * sizes.d_ff * w
    kept = sizes.decoder_layers * (answers * row + tokens * 2 * sizes.inner * w) + tokens * sizes.d * w
    if any(_stack(name) == "encoder" for name in sizes.adapted):
        row = 2 * 2 * 4 * sizes.d + 4 * sizes.inner * w + (6 if sizes.activation == 2 else 2) * sizes.d_ff * w
        kept += sizes.encoder_layers * tokens * row
    inputs = {_input(name, fan_in) if w == 4 else name: (name, fan_in) for name, (fan_in, _) in sizes.adapted.items()}
    for name, fan_in in inputs.values():
        kept += 0 if w == 4 and _reads_prompt(name) else _rows(name, answers, tokens) * fan_in * 4
    kept += sum(_rows(name, answers, tokens) * r * 4 for name in sizes.adapted)
    return kept + max(answers, tokens) * 2 * max(sizes.activation * sizes.d_ff * w, 2 * sizes.inner * w)


def _stack(name: str) -> str:
    return "encoder" if "encoder" in name.split(".") else "decoder"


def _reads_prompt(name: str) -> bool:
    """Return whether a layer's input is the encoder's output, which is kept once for all layers."""
    parent, leaf = name.split(".")[-2:]
    return parent in ("EncDecAttention", "encoder_attn") and leaf in ("k", "v", "k_proj", "v_proj")


def _rows(name: str, answers: int, tokens: int) -> int:
    return tokens if _stack(name) == "encoder" or _reads_prompt(name) else answers


def _input(name: str, fan_in: int) -> tuple[str, int, bool, bool]:
    """Return what tells one layer's input from another's: query, key and value read the same one."""
    parent, leaf = name.rsplit(".", 1)
    return parent, fan_in, leaf in OUTPUTS, _reads_prompt(name)


# --- the command line ---


def report(settings: config.PPOTraining, run: Path) -> str:
    """Return the plan of a run as text.

    The longest prompt is that of the run's prepared dialogues; before there are any, the limit of the preset.

    Raises:
        UserError: a model is not to be had, or no microbatch fits the budget.
    """
    device = models.choose_device(settings.device)
    sizes, packed = read_sizes(settings)
    reward = reward_parameters(settings.reward)
    query_tokens = longest_prompt(settings, run)
    made = plan(settings, sizes, reward, device, query_tokens, packed)
    lines = [
        f"{made.engine} engine on {device}, frozen weights in {str(made.dtype).removeprefix('torch.')}, "
        f"microbatches of {made.microbatch}, "
        f"prompts of {query_tokens} tokens, summaries of {made.new_tokens}",
        "",
        *(f"{name:<30}{size / 2**20:>10,.1f} MB" for name, size in made.parts.items()),
        f"{'peak (rollout or update)':<30}{made.peak / 2**20:>10,.1f} MB",
    ]
    if settings.plan_budget_gb is not None:
        fits = largest_microbatch(settings, sizes, reward, device, query_tokens, packed)
        lines += ["", _advice(settings, fits)]
    return "\n".join(lines)


def largest_microbatch(settings: config.PPOTraining, *rest: Any) -> int | None:
    """Return the largest microbatch that fits `--plan-budget-gb`, or None; arguments as of `plan`."""
    budget, minibatch = settings.plan_budget_gb * GIB, settings.ppo.minibatch_size
    for size in (size for size in range(minibatch, 0, -1) if minibatch % size == 0):
        smaller = replace(settings, ppo=replace(settings.ppo, microbatch_size=size))
        if plan(smaller, *rest).peak <= budget:
            return size
    return None


def _advice(settings: config.PPOTraining, fits: int | None) -> str:
    budget = f"{settings.plan_budget_gb:g} GB"
    if fits is None:
        return (
            f"no microbatch fits {budget}: lower --ppo.batch-size or --rollout.max-new-tokens, or drop long "
            "prompts in data_preparation.py (--data.max-query-tokens)"
        )
    return f"largest microbatch that fits {budget}: --ppo.microbatch-size {fits}"


def read_sizes(settings: config.PPOTraining) -> tuple[Sizes, bool]:
    """Return the sizes of the summarizer, and whether the packed engine runs it."""
    source, model = _config_of(settings.model.base, settings.model.revision)
    sizes = Sizes.of(model, settings.ppo, untied=source.get("tie_word_embeddings") is False)
    return sizes, settings.engine != "hf" and model.model_type == "t5"


def reward_parameters(settings: config.Reward) -> int:
    """Return the number of the classifier's parameters."""
    _, classifier = _config_of(settings.model, settings.revision)
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(classifier)
    return sum(parameter.numel() for parameter in model.parameters())


def longest_prompt(settings: config.PPOTraining, run: Path) -> int:
    """Return the tokens of the longest training prompt, or the most that the preset lets through."""
    from detox import data

    prepared = run / "prepared"
    if not prepared.exists():
        return config.preset(config.Preparation, settings.preset).data.max_query_tokens
    return max(map(len, data.load_prepared(prepared)["train"]["input_ids"]))


def _config_of(name: str, revision: str | None) -> tuple[dict[str, Any], PretrainedConfig]:
    source = models._locate(name, revision, ("config.json",))
    return source.json("config.json"), models._config(source)
