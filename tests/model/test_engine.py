"""The engine interface on every architecture, against the models' own forward and generate."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration, T5Config, T5ForConditionalGeneration

from detox.model import adapters, devices, loading
from detox.model.engine import by_length, response_mask
from detox.model.engines import make_engine
from detox.model.hugging_face import HuggingFaceEngine
from detox.model.packed_t5 import PackedT5Engine
from detox.model.sampling import Sampling, uniforms
from tests import tiny

KINDS = ("t5 1.0", "t5 1.1 untied", "bart")
ENGINES = [(kind, "hf") for kind in KINDS] + [(kind, "packed") for kind in KINDS[:2]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    made = {
        "t5 1.0": tiny.t5(root / "v10", gated=False, tied=True),
        "t5 1.1 untied": tiny.t5(root / "v11"),
        "bart": tiny.bart(root / "bart"),
    }
    return {
        kind: (folder, tiny.lora(root / f"lora-{i}", folder, targets=targets))
        for i, (kind, folder, targets) in enumerate(
            (k, f, ("q_proj", "v_proj") if k == "bart" else ("q", "v")) for k, f in made.items()
        )
    }


def engine_for(folders, kind, name, adapter=True):
    folder, lora = folders[kind]
    model = loading.load_summarizer(str(folder))
    if adapter:
        model = adapters.load_adapter(model, str(lora))
    return make_engine(name, model)


def queries(count=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(4, 60, (2 + (5 * i) % 17,), generator=generator) for i in range(count)]


def own_logprobs(engine, query, response):
    """The model's own forward: log-probabilities [T] of one response, unpadded, alone."""
    inputs = torch.cat([torch.tensor([engine.start_id]), response[:-1]])[None]
    model = engine.peft or engine.base
    logits = model(input_ids=query[None], decoder_input_ids=inputs).logits[0]
    return logits.log_softmax(-1).gather(1, response[:, None])[:, 0]


@pytest.mark.parametrize(("kind", "name"), ENGINES)
@torch.no_grad()
def test_logprobs_of_sampling_and_teacher_forcing_are_the_models_own(folders, kind, name):
    engine = engine_for(folders, kind, name)
    prompts = queries()
    encoded = engine.encode(prompts)
    generated = engine.generate(encoded, 9, Sampling(uniforms(0, 0, range(5), 9)))
    outputs = engine.logprobs(encoded, generated.responses)
    lengths = [len(ids) for ids in generated.responses]
    assert torch.equal(outputs.mask, response_mask(lengths))
    for row, (query, response) in enumerate(zip(prompts, generated.responses)):
        expected = own_logprobs(engine, query, response)
        torch.testing.assert_close(outputs.logprobs[row, : lengths[row]], expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(generated.logprobs[row, : lengths[row]], expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(generated.hidden, outputs.hidden, atol=1e-4, rtol=1e-3)
    off = engine.logprobs(engine.encode(prompts, reference=True), generated.responses, reference=True)
    assert float((off.logprobs - outputs.logprobs).abs().max()) > 1e-3, "the adapter does something"
    with engine.adapters_off():
        expected = own_logprobs(engine, prompts[0], generated.responses[0])
    torch.testing.assert_close(off.logprobs[0, : lengths[0]], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("tall", [False, True])
@torch.no_grad()
def test_a_bias_of_the_head_counts_in_sampling_and_in_teacher_forcing(folders, tall):
    engine = engine_for(folders, "bart", "hf")
    bias = engine.base.final_logits_bias
    bias.copy_(torch.randn(bias.shape, generator=torch.Generator().manual_seed(0)))
    engine = make_engine("hf", engine.peft)
    engine.traits = replace(engine.traits, tall_head=tall)
    prompts = queries(3)
    encoded = engine.encode(prompts)
    generated = engine.generate(encoded, 6, Sampling(uniforms(0, 0, range(3), 6)))
    outputs = engine.logprobs(encoded, generated.responses)
    for row, (query, response) in enumerate(zip(prompts, generated.responses)):
        expected = own_logprobs(engine, query, response)
        for found in (generated, outputs):
            torch.testing.assert_close(found.logprobs[row, : len(response)], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("kind", "name"), ENGINES)
@torch.no_grad()
def test_a_batch_generates_what_each_prompt_generates_alone(folders, kind, name):
    engine = engine_for(folders, kind, name)
    prompts = queries(6)
    for draws in (None, uniforms(3, 0, range(6), 12)):
        together = engine.generate(engine.encode(prompts), 12, Sampling(draws))
        for row, prompt in enumerate(prompts):
            alone = engine.generate(
                engine.encode([prompt]), 12, Sampling(None if draws is None else draws[row : row + 1])
            )
            assert torch.equal(alone.responses[0], together.responses[row])
            assert bool(alone.finished[0]) == bool(together.finished[row])


@pytest.mark.parametrize(("kind", "name"), ENGINES)
@torch.no_grad()
def test_greedy_generation_is_that_of_transformers(folders, kind, name):
    engine = engine_for(folders, kind, name)
    prompts = queries(8, seed=2)
    found = engine.generate(engine.encode(prompts), 10).responses
    for prompt, response in zip(prompts, found):
        expected = (engine.peft or engine.base).generate(
            input_ids=prompt[None],
            max_new_tokens=10,
            do_sample=False,
            num_beams=1,
            forced_bos_token_id=None,
            forced_eos_token_id=None,
        )
        assert response.tolist() == expected[0, 1 : 1 + len(response)].tolist()
        assert len(response) == 10 or int(response[-1]) in engine.eos_ids


@pytest.mark.parametrize(("kind", "name"), ENGINES)
@torch.no_grad()
def test_finished_sequences_leave_and_keep_their_own_length(folders, kind, name):
    engine = engine_for(folders, kind, name)
    end = engine.eos_ids[0]
    plain = engine._logits

    def favour_the_end(*hidden):
        logits = plain(*hidden)
        logits[:, end] += 4
        return logits

    engine._logits = favour_the_end
    sizes = []
    advance = engine.advance
    engine.advance = lambda state, tokens: sizes.append(len(tokens)) or advance(state, tokens)
    generated = engine.generate(engine.encode(queries(8)), 15, Sampling(uniforms(1, 0, range(8), 15)))
    lengths = [len(ids) for ids in generated.responses]
    assert sizes == [sum(length > step for length in lengths) for step in range(max(lengths))]
    assert len(set(lengths)) > 2
    for ids, finished in zip(generated.responses, generated.finished.tolist()):
        assert end not in ids[:-1].tolist()
        assert finished == (int(ids[-1]) == end)


@pytest.mark.parametrize(("kind", "name"), ENGINES)
def test_what_was_generated_can_be_learned_from(folders, kind, name):
    engine = engine_for(folders, kind, name)
    generated = engine.generate(engine.encode(queries()), 5, Sampling(uniforms(0, 0, range(5), 5)))
    head = torch.nn.Linear(generated.hidden.shape[1], 1)
    (
        head(generated.hidden).sum() + engine.logprobs(engine.encode(queries()), generated.responses).logprobs.sum()
    ).backward()
    assert float(head.weight.grad.abs().sum()) > 0


def test_merging_leaves_every_weight_as_it_was(folders):
    engine = engine_for(folders, "t5 1.1 untied", "hf")
    before = {name: value.clone() for name, value in engine.peft.state_dict().items()}
    with engine.adapters_merged():
        weight = engine.base.encoder.block[0].layer[0].SelfAttention.q.base_layer.weight
        assert not torch.equal(
            weight, before["base_model.model.encoder.block.0.layer.0.SelfAttention.q.base_layer.weight"]
        )
    assert all(torch.equal(value, before[name]) for name, value in engine.peft.state_dict().items())


def test_gradients_reach_the_adapters_alone(folders):
    engine = engine_for(folders, "bart", "hf")
    for name, parameter in engine.peft.named_parameters():
        parameter.requires_grad_("decoder" in name and "lora_" in name)
    engine = HuggingFaceEngine(engine.peft)
    encoded = engine.encode(queries())
    assert not encoded.hidden.requires_grad, "a frozen encoder leaves no graph"
    engine.logprobs(encoded, [torch.tensor([5, 6, 2])] * 5).logprobs.sum().backward()
    for name, parameter in engine.peft.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


@pytest.mark.parametrize("layers", [(1, 3), (3, 1)])
def test_a_decoder_may_have_other_layers_than_the_encoder(layers):
    torch.manual_seed(0)
    sizes = {"d_model": 16, "vocab_size": 64, "decoder_start_token_id": 0}
    t5 = {"d_kv": 8, "d_ff": 32, "num_heads": 2, "feed_forward_proj": "gated-gelu", "num_layers": layers[0]}
    bart = {"encoder_layers": layers[0], "decoder_layers": layers[1], "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    bart |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "init_std": 0.3}
    models_made = (
        T5ForConditionalGeneration(T5Config(**sizes, **t5, num_decoder_layers=layers[1])),
        BartForConditionalGeneration(BartConfig(**sizes, **bart)),
    )
    for model in models_made:
        engine = make_engine("hf", model)
        engine.eos = torch.tensor([*range(1, 64, 7)], device=engine.device)  # sequences leave the batch one by one
        draws = uniforms(0, 0, range(5), 12)
        with torch.no_grad():
            made = engine.generate(engine.encode(queries()), 12, Sampling(draws))
            forced = engine.logprobs(engine.encode(queries()), made.responses)
        assert len({len(response) for response in made.responses}) > 1
        torch.testing.assert_close(made.logprobs, forced.logprobs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("detached", [True, False])
def test_a_value_is_read_in_float32_and_moves_the_policy_only_where_it_may(folders, detached):
    engine = engine_for(folders, "bart", "hf")
    engine.value_head = torch.nn.Linear(16, 1)
    engine.value_reads_detached = detached
    hidden = torch.randn(5, 16, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    found = engine.value(hidden)
    expected = hidden.detach().double() @ engine.value_head.weight[0].double() + float(engine.value_head.bias.detach())
    assert found.dtype == torch.float32 and found.shape == (5,)
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-5)
    found.sum().backward()
    assert (hidden.grad is None) == detached


def test_auto_is_the_packed_engine_where_a_new_shape_costs_nothing(folders, monkeypatch):
    model = loading.load_summarizer(str(folders["t5 1.0"][0]))
    assert type(make_engine("auto", model)) is PackedT5Engine and type(make_engine("hf", model)) is HuggingFaceEngine
    assert type(engine_for(folders, "bart", "auto")) is HuggingFaceEngine
    for compiles, kind in ((True, HuggingFaceEngine), (False, PackedT5Engine)):
        there = replace(devices.traits(torch.device("cpu")), compiles_shapes=compiles)
        monkeypatch.setattr("detox.model.engines.traits", lambda device, there=there: there)
        assert type(make_engine("auto", model)) is kind


def test_groups_hold_neighbours_in_length():
    assert by_length([3, 9, 1, 9, 4], 2) == [[1, 3], [4, 0], [2]]


def test_padding_to_a_multiple_changes_nothing(folders):
    engine = engine_for(folders, "t5 1.0", "hf")
    padded = engine_for(folders, "t5 1.0", "hf")
    padded.traits = devices.MPS
    responses = [torch.tensor([5, 6, 1]), torch.tensor([7, 1])] * 2 + [torch.tensor([1])]
    with torch.no_grad():
        outputs = [e.logprobs(e.encode(queries()), responses).logprobs for e in (engine, padded)]
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5, rtol=1e-4)
