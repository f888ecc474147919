"""The policy: what it starts from, and its export as one adapter for the plain base."""

from __future__ import annotations

import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM

import config
from detox.model import loading, policy
from tests import tiny

IDS = torch.tensor([[5, 6, 7, 8, 1]])


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS, decoder_input_ids=IDS).logits


def test_an_export_is_the_supervised_adapter_and_what_training_added(tmp_path):
    """The supervised one is in encoder and decoder, the other in the decoder alone, with other ranks and scalings."""
    loading.quiet()
    base = tiny.t5(tmp_path / "t5")
    lora = tiny.lora(tmp_path / "lora", base, r=4, alpha=8, targets=("q", "v"))
    start, supervised = policy.load_start(config.Model(base=str(base), adapter=str(lora)))
    by_peft = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(base), lora)
    torch.testing.assert_close(logits(start), logits(by_peft), atol=1e-5, rtol=1e-4)

    made = policy.make_policy(start, config.PPO(lora_r=3, lora_alpha=6, lora_scope="decoder", lora_targets="v,o"))
    torch.testing.assert_close(logits(made.pretrained_model), logits(by_peft), atol=1e-5, rtol=1e-4)
    for name, parameter in policy.trainable(made).items():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
    trained = logits(made.pretrained_model)
    assert (trained - logits(by_peft)).abs().max() > 1e-2

    policy.save_adapter(made, supervised, str(base), None, tmp_path / "export")
    exported = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(base), tmp_path / "export")
    torch.testing.assert_close(logits(exported), trained, atol=1e-4, rtol=1e-3)
    ranks = {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.weight"): len(tensor)
        for name, tensor in load_file(tmp_path / "export" / "adapter_model.safetensors").items()
        if "lora_A" in name
    }
    for name, rank in ranks.items():
        added = name.startswith("decoder.") and name.endswith((".v", ".o"))
        assert rank == 4 * name.endswith((".q", ".v")) + 3 * added, name
