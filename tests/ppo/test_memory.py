"""Work in smaller pieces, asked for or where memory runs out: the same result."""

from __future__ import annotations

import pytest
import torch

from detox.ppo.checks import TrainingError
from tests.ppo.trainers import queries, rewarded, trainer_for, weights


def test_microbatches_give_the_gradient_of_the_whole_minibatch(folder):
    results = []
    for microbatch in (None, 1):
        trainer = trainer_for(folder, minibatch_size=6, microbatch_size=microbatch)
        rollout = trainer.rollout(queries(6), range(6), 10)
        trainer.update(rollout, rewarded(rollout))
        results.append(weights(trainer))
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-4)


def test_out_of_memory_halves_the_microbatch_and_changes_no_result(folder, capsys):
    plain, short = trainer_for(folder, minibatch_size=6), trainer_for(folder, minibatch_size=6)
    whole = short.engine.logprobs

    def only_two_fit(encoded, responses, **options):
        if torch.is_grad_enabled() and len(responses) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return whole(encoded, responses, **options)

    short.engine.logprobs = only_two_fit
    for trainer in (plain, short):
        rollout = trainer.rollout(queries(6), range(6), 10)
        trainer.update(rollout, rewarded(rollout))
    assert short.microbatch_size == 2
    assert "microbatches of 2" in capsys.readouterr().err
    torch.testing.assert_close(weights(plain), weights(short), atol=1e-5, rtol=1e-4)


def test_an_error_that_is_not_lack_of_memory_is_not_swallowed(folder):
    trainer = trainer_for(folder)
    rollout = trainer.rollout(queries(6), range(6), 6)

    def broken(*arguments, **options):
        raise RuntimeError("shapes do not match")

    trainer.engine.value = broken
    with pytest.raises(RuntimeError, match="shapes"):
        trainer.update(rollout, rewarded(rollout))


def test_out_of_memory_in_sampling_halves_the_prompts_and_changes_no_sample(folder, capsys):
    plain, short = trainer_for(folder), trainer_for(folder)
    whole, sizes = short.engine.generate, []

    def only_two_fit(encoded, *arguments, **options):
        sizes.append(len(encoded))
        if len(encoded) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return whole(encoded, *arguments, **options)

    short.engine.generate = only_two_fit
    one, other = (trainer.rollout(queries(5), range(5), 10) for trainer in (plain, short))
    assert sizes == [5, 3, 2, 2, 1] and "sampling for 2 prompts" in capsys.readouterr().err
    assert all(torch.equal(a, b) for a, b in zip(one.response_ids, other.response_ids, strict=True))
    assert torch.equal(one.finished, other.finished) and one.encoded.lengths == other.encoded.lengths
    for name in ("logprobs", "hidden"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), atol=1e-5, rtol=1e-4)
    sizes.clear()
    short.rollout(queries(4), range(4), 10)
    assert sizes == [2, 2], "what fits is remembered"


@pytest.mark.parametrize("where", ["generate", "logprobs"])
def test_out_of_memory_with_one_example_is_told(folder, where):
    trainer = trainer_for(folder)
    rollout = trainer.rollout(queries(6), range(6), 6)

    def never(*arguments, **options):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:75] DefaultCPUAllocator: can't allocate memory")

    setattr(trainer.engine, where, never)
    with pytest.raises(TrainingError, match="out of memory with one example at a time"):
        trainer.rollout(queries(6), range(6), 6)
        trainer.update(rollout, rewarded(rollout))
