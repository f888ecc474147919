"""Whether a summarizer is of a kind that the engine can run: tried out on a few tokens before anything is computed."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from detox.model.hugging_face import HuggingFaceEngine
from detox.stage.errors import UserError, printable

_TOLERANCE = 1e-3


@torch.no_grad()
def check(model: PreTrainedModel) -> None:
    """Demand that encoder, decoder and head, run apart and token by token, say what the model says as a whole.

    Args:
        model: an encoder-decoder in float32 on the CPU.

    Raises:
        UserError: they do not, or fail: a model whose head does more than multiply, or whose decoder wants more.
    """
    try:
        difference = _difference(model)
    except Exception as error:  # an architecture of others can fail in any way
        reason = printable(f"{type(error).__name__}: {error}", 120)
    else:
        if difference < _TOLERANCE:
            return
        reason = f"its logits differ by {difference:.2g}"
    raise UserError(
        f"{model.name_or_path}: {type(model).__name__} can't be run step by step here ({reason}); choose a model such "
        "as T5, Flan-T5, mT5, BART or Pegasus"
    )


def _difference(model: PreTrainedModel) -> float:
    """Return the largest difference between the logits of the parts and of the whole, relative to the largest logit."""
    engine = HuggingFaceEngine(model)
    query, response = torch.tensor([5, 6, 7, engine.eos_ids[0]]), torch.tensor([7, 8, 9, 6])
    fed = torch.cat([torch.tensor([engine.start_id]), response[:-1]])
    whole = model(input_ids=query[None], attention_mask=torch.ones(1, 4).long(), decoder_input_ids=fed[None]).logits[0]
    encoded = engine.encode([query])
    at_once = engine._logits(engine.decode(encoded, [response]))
    state = engine.start(encoded)
    one_by_one = torch.cat([engine._logits(engine.advance(state, token[None])) for token in fed])
    scale = whole.abs().max().clamp(min=1.0)
    return max(float((part - whole).abs().max() / scale) for part in (at_once, one_by_one))
