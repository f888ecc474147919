"""Summaries of a model: the same for any batch, engine and number of processes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import config
from detox.evaluation import examples, summaries
from detox.model import packed_t5
from detox.model.engines import make_engine
from tests import threads


def write(model, engine="packed", seed=0, batch_size=64, draws=None, **more):
    summarizer, tokenizer = model
    generator = torch.Generator().manual_seed(0)
    lengths = (9, 4, 17, 4, 30, 12, 8)
    queries = [torch.randint(4, 60, (length,), generator=generator) for length in lengths]
    options = config.Evaluation(samples=3, max_new_tokens=7, batch_size=batch_size)
    draws = draws or {"samples": summaries.Draw(stop=3), "greedy": summaries.Draw(greedy=True)}
    made = make_engine(engine, summarizer)
    found = summaries.summarize(made, tokenizer, queries, draws, options, seed=seed, title="test", **more)
    shared = {"processes": more["processes"]} if "processes" in more else {}
    summaries.teacher_force(made, queries, list(found.values()), options, title="test", **shared)
    return found


def ids(found, name="samples"):
    return [[record["ids"] for record in row] for row in found[name]]


@pytest.mark.parametrize("engine", ["packed", "hf"])
def test_batch_size_changes_nothing(model, engine):
    whole, single = write(model, engine), write(model, engine, batch_size=1)
    for name in whole:
        assert ids(whole, name) == ids(single, name)
        for key in ("logprob", "reference_logprob"):
            np.testing.assert_allclose(examples.column(whole[name], key), examples.column(single[name], key), atol=1e-4)
    assert all(len(row) == 3 for row in whole["samples"]) and all(len(row) == 1 for row in whole["greedy"])


@pytest.mark.parametrize("engine", ["packed", "hf"])
@pytest.mark.parametrize("count", [2, 9])
def test_processes_share_the_batches_and_change_no_bit(model, engine, count):
    alone = write(model, engine, batch_size=2)
    for found in threads.run(count, lambda processes: write(model, engine, batch_size=2, processes=processes)):
        assert found == alone


def test_each_process_encodes_what_its_own_batches_need(model, monkeypatch):
    encoded, encode = [], packed_t5.PackedT5Engine.encode

    def noted(self, queries, **options):
        encoded.append(len(queries))
        return encode(self, queries, **options)

    monkeypatch.setattr(packed_t5.PackedT5Engine, "encode", noted)
    write(model, batch_size=2)
    once = sum(encoded)
    encoded.clear()
    threads.run(2, lambda processes: write(model, batch_size=2, processes=processes))
    assert once <= sum(encoded) <= once + 2 * 2, "at most one group more, to summarize and to teacher-force"


def test_a_model_is_as_likely_to_itself(model):
    found = write(model)
    for name in found:
        np.testing.assert_allclose(
            examples.column(found[name], "logprob"),
            examples.column(found[name], "reference_logprob"),
            atol=1e-4,
        )


def test_random_numbers_belong_to_seed_dialogue_and_number(model):
    first = write(model)
    assert ids(first) == ids(write(model)), "the same seed"
    assert ids(first) != ids(write(model, seed=1)), "another seed"
    assert ids(first, "greedy") == ids(write(model, seed=1), "greedy")
    others = write(model, draws={"noise": summaries.Draw(start=2, stop=5)})
    assert [row[0] for row in ids(others, "noise")] == [row[2] for row in ids(first)]
    assert all(row[1] not in mine for row, mine in zip(ids(others, "noise"), ids(first), strict=True))


def test_banned_words_are_never_said(model):
    said = {token for row in ids(write(model)) for one in row for token in one} - {1}
    banned = tuple((token,) for token in sorted(said)[::2])
    found = write(model, draws={"filtered": summaries.Draw(stop=3, banned=banned)})
    assert not {(t,) for row in ids(found, "filtered") for one in row for t in one} & set(banned)
