"""The floating-point work that a PPO iteration cannot do without: matrix products, by phase."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from detox.plan.model_sizes import ClassifierSizes, Sizes, rows

if TYPE_CHECKING:
    import config


def useful_gflop(
    sizes: Sizes, classifier: ClassifierSizes, lengths: Sequence[int], new_tokens: int, ppo: config.PPO
) -> dict[str, float]:
    """Return the work (10^9 operations) of the phases `encode`, `generate`, `score`, `reference` and `epochs`.

    A product of n rows with a [k, m] weight is 2 n k m. Attention of n queries over s keys is 4 n s inner,
    causal attention half of it. Padding, norms, softmax and the optimizer count nothing; nor does what a
    phase before made needless: the old log-probabilities (sampling has them), and where the encoder is frozen,
    it and the products of its output with the decoder's frozen weights. The backward pass takes as much as the
    forward pass for the input of a frozen product, and twice as much for attention and for LoRA; where the
    encoder is frozen it stops at the encoder's output.

    Args:
        sizes: of the summarizer.
        classifier: of the reward model.
        lengths: tokens of each prompt.
        new_tokens: of every response.
        ppo: rank of the LoRA, and passes over the rollout.
    """
    tokens, answers = sum(lengths), len(lengths) * new_tokens
    square, wide = 2 * sizes.d * sizes.inner, 2 * sizes.d * sizes.d_ff * (1 + sizes.activation)
    encoder = tokens * sizes.encoder_layers * (4 * square + wide)
    encoder_attention = sum(4 * length**2 * sizes.inner for length in lengths) * sizes.encoder_layers
    layers = sizes.decoder_layers
    decoder, memory = answers * layers * (6 * square + wide), tokens * layers * 2 * square
    decoder_attention = layers * sizes.inner * new_tokens * (len(lengths) * 2 * (new_tokens + 1) + 4 * tokens)
    head = answers * 2 * sizes.d * sizes.vocabulary
    lora = sum(
        rows(name, answers, tokens) * 2 * ppo.lora_r * (fan_in + fan_out)
        for name, (fan_in, fan_out) in sizes.adapted.items()
    )
    encode, generate = encoder + encoder_attention, decoder + memory + decoder_attention + head
    again = generate - memory  # what has to be done anew for the same prompts
    reference, epoch = again, 2 * again + decoder_attention + 3 * lora
    if sizes.encoder_is_trained:
        reference, epoch = encode + generate, epoch + 2 * memory + 2 * encode + encoder_attention
    scored = len(lengths) * (new_tokens + 2)
    score = 2 * scored * classifier.linear + 4 * classifier.layers * scored * (new_tokens + 2) * classifier.d
    work = {
        "encode": encode,
        "generate": generate,
        "score": score,
        "reference": reference,
        "epochs": ppo.ppo_epochs * epoch,
    }
    return {phase: operations / 1e9 for phase, operations in work.items()}
