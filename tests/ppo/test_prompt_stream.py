"""The order of the prompts: every dialogue once an epoch, and a run that goes on meets those that are left."""

from __future__ import annotations

from detox.ppo.prompt_stream import PromptStream

COLUMN = [[10], [11, 12], [13], [14, 15, 16], [17]]


def test_every_dialogue_comes_once_an_epoch_in_another_order():
    prompts = PromptStream(COLUMN, seed=0).take(20)
    assert [prompt.key for prompt in prompts] == list(range(20))
    assert [prompt.query_ids.tolist() for prompt in prompts] == [COLUMN[prompt.row] for prompt in prompts]
    epochs = [tuple(prompt.row for prompt in prompts[start : start + 5]) for start in range(0, 20, 5)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len(set(epochs)) > 1
    assert [prompt.row for prompt in PromptStream(COLUMN, seed=1).take(20)] != [prompt.row for prompt in prompts]


def test_a_stream_goes_on_where_it_was_left():
    whole = [prompt.row for prompt in PromptStream(COLUMN, seed=3).take(14)]
    stream = PromptStream(COLUMN, seed=3)
    assert [prompt.row for count in (2, 5, 7) for prompt in stream.take(count)] == whole
    later = PromptStream(COLUMN, seed=3, position=7).take(7)
    assert [(prompt.key, prompt.row) for prompt in later] == list(enumerate(whole))[7:]
