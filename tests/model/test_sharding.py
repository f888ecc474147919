"""Sharded weights: let go after each block, and gathered once for a rollout, as far as they fit."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import distributed
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp._fully_shard._fsdp_param_group import FSDPParamGroup
from torch.distributed.tensor import DTensor
from transformers import AutoModelForSeq2SeqLM

from detox.model import devices, sharding
from detox.model.hugging_face import HuggingFaceEngine
from detox.model.sampling import Sampling, uniforms
from detox.stage.parallel import Processes
from tests import tiny

TOKENS = 6


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.t5(tmp_path_factory.mktemp("sharded"))


@pytest.fixture
def sharded(base, tmp_path):
    """The engine of a model whose blocks are sharded, among one process."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    model = AutoModelForSeq2SeqLM.from_pretrained(base).eval().requires_grad_(False)
    sharding.shard(model, Processes(0, 1, "cpu", True))
    yield HuggingFaceEngine(model)
    distributed.destroy_process_group()


def blocks(model) -> list[FSDPModule]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def whole(model) -> list[bool]:
    """Return of each block whether its weights are here in full."""
    return [not any(isinstance(one, DTensor) for one in block.parameters()) for block in blocks(model)]


def sample(engine):
    queries = [torch.tensor([5, 6, 7, 1]), torch.tensor([8, 9, 1])]
    encoded = engine.encode(queries)
    return engine.generate(encoded, TOKENS, Sampling(uniforms(0, 0, [1, 2], TOKENS))).responses


def test_a_block_lets_go_of_its_weights_after_it_has_run(sharded):
    assert blocks(sharded.base) and not any(whole(sharded.base))
    with torch.no_grad():
        sample(sharded)
    assert not any(whole(sharded.base))


@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
def test_sampling_gathers_what_fits_once_and_says_the_same(sharded, base, share, monkeypatch):
    decoder = sharded.base.get_decoder()
    sizes = [sum(one.numel() * one.element_size() for one in block.parameters()) for block in blocks(decoder)]
    fit = int(share * len(sizes))
    monkeypatch.setattr(devices, "free_memory", lambda _: (sum(sizes[:fit]) + 1) / sharding._MOST)

    gathers = Counter()
    gather = FSDPParamGroup._to_unsharded

    def counted(group):
        gathers["all"] += 1
        return gather(group)

    monkeypatch.setattr(FSDPParamGroup, "_to_unsharded", counted)
    with torch.no_grad():
        made = sample(sharded)
    encoder = len(blocks(sharded.base)) - len(sizes)
    assert gathers["all"] == encoder + fit + (len(sizes) - fit) * TOKENS
    assert not any(whole(sharded.base)), "let go at the end"
    alone = HuggingFaceEngine(AutoModelForSeq2SeqLM.from_pretrained(base).eval())
    assert [ids.tolist() for ids in made] == [ids.tolist() for ids in sample(alone)]
    with torch.no_grad(), sharding.gathered(decoder, sharded.device) as everything:
        assert everything == (fit == len(sizes)) and whole(decoder) == [True] * fit + [False] * (len(sizes) - fit)
