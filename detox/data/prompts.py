"""Rows as prompts: their tokens, the limits on their number, and what no token stands for."""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import TYPE_CHECKING, Optional

from transformers import PreTrainedTokenizerBase

from detox.data.readers import Record
from detox.data.rows import Row

if TYPE_CHECKING:
    import config

_SPEAKER = re.compile(r"^[^\S\n]*#?[\w .-]{1,30}#?[:：]", re.MULTILINE)

Outcome = tuple[str, Optional[Record], tuple[int, ...]]
"""Of a row: why it is dropped, or "kept" or "truncated"; then its example, and the numbers of `counts.LOST`."""


class Prompter:
    """Makes examples of rows: the prompt, its tokens, and the limits on their number."""

    def __init__(self, settings: config.Data, tokenizer: PreTrainedTokenizerBase):
        self.settings, self.tokenizer = settings, tokenizer
        self.head, self.tail = settings.prompt.split("{dialogue}")
        # A text of more characters cannot fit, but for runs of white space or of unknown characters.
        longest_token = max(map(len, tokenizer.get_vocab()))
        self.longest_dialogue = longest_token * settings.max_query_tokens
        self.longest_summary = longest_token * settings.max_summary_tokens
        # Where a tokenizer knows every byte, another token may stand in for the unknown one.
        ends = (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id)
        self.unknown_id = None if tokenizer.unk_token_id in ends else tokenizer.unk_token_id

    def shorten(self, row: Row, limit_summaries: bool) -> Row:
        """Cut texts far beyond the limits to one character more than could fit, so that they cost no more."""
        row = row._replace(dialogue=row.dialogue[: self.longest_dialogue + 1])
        return row._replace(summaries=(row.summaries[0][: self.longest_summary + 1],)) if limit_summaries else row

    def __call__(self, chunk: tuple[list[Row], bool]) -> list[Outcome]:
        """Tokenize rows.

        Args:
            chunk: rows, and whether the limit on the length of summaries holds for them.

        Returns:
            What becomes of each row.
        """
        rows, limit_summaries = chunk
        queries = self._tokenize([self._query(row.dialogue) for row in rows])
        summaries = self._tokenize([row.summaries[0][: self.longest_summary + 1] for row in rows], target=True)
        outcomes = []
        for row, query_ids, summary_ids in zip(rows, queries, summaries):
            is_long = (
                len(row.summaries[0]) > self.longest_summary or len(summary_ids) > self.settings.max_summary_tokens
            )
            reason, example = self._fit(row, query_ids, is_long and limit_summaries)
            outcomes.append((reason, example, () if example is None else self._lost(example, summary_ids)))
        return outcomes

    def _lost(self, example: Record, summary_ids: list[int]) -> tuple[int, ...]:
        """Return the numbers of `LOST` of an example."""
        ids, dialogue, summary = example["input_ids"], example["dialogue"], example["summaries"][0]
        unknown_tokens = ids.count(self.unknown_id)
        lost = self._lost_characters(dialogue, self.unknown_id in ids)
        return len(ids), unknown_tokens, *lost, *self._lost_characters(summary, self.unknown_id in summary_ids)

    def _lost_characters(self, text: str, any_is: bool) -> tuple[int, int]:
        """Return how long a text is, and how much of it no token stands for; names of speakers do not count."""
        if not any_is:
            return len(text), 0
        text = _SPEAKER.sub("", text)
        if not self.tokenizer.is_fast:  # which does not say where its tokens are
            return len(text), len(text)
        found = self.tokenizer(text, return_offsets_mapping=True, add_special_tokens=False, verbose=False)
        pairs = zip(found["input_ids"], found["offset_mapping"])
        return len(text), sum(end - start for token, (start, end) in pairs if token == self.unknown_id)

    def _fit(self, row: Row, input_ids: list[int], is_summary_long: bool) -> tuple[str, Record | None]:
        outcome, dialogue = "kept", row.dialogue
        if len(input_ids) < self.settings.min_query_tokens:
            return "too short", None
        if len(dialogue) > self.longest_dialogue or len(input_ids) > self.settings.max_query_tokens:
            outcome, dialogue = "truncated", self._truncate(dialogue) if self.settings.truncate else ""
            if not dialogue:
                return "too long", None
            input_ids = self._tokenize([self._query(dialogue)])[0]
        if is_summary_long:
            return "long summary", None
        query = self._query(dialogue)
        example = {"id": row.id, "dialogue": dialogue, "query": query, "input_ids": input_ids}
        return outcome, {**example, "summaries": list(row.summaries), "topic": row.topic}

    def _truncate(self, dialogue: str) -> str:
        """Return as many whole words of the dialogue as fit into the prompt; its instruction stays whole."""
        ends = [word.end() for word in re.finditer(r"\S+", dialogue)]
        if len(dialogue) > self.longest_dialogue:
            ends.pop()

        def tokens(words: int) -> int:
            return len(self._tokenize([self._query(dialogue[: ends[words - 1]])])[0])

        words = bisect_right(range(1, len(ends) + 1), self.settings.max_query_tokens, key=tokens)
        return dialogue[: ends[words - 1]] if words else ""

    def _query(self, dialogue: str) -> str:
        return f"{self.head}{dialogue}{self.tail}"

    def _tokenize(self, texts: list[str], target: bool = False) -> list[list[int]]:
        if not texts:
            return []
        inputs = {"text_target" if target else "text": texts}
        options = {"truncation": False, "padding": False, "return_attention_mask": False, "verbose": False}
        return self.tokenizer(**inputs, **options)["input_ids"]
