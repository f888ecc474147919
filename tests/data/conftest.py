"""The tokenizer of these tests."""

from __future__ import annotations

import pytest
from transformers import PreTrainedTokenizerFast

from tests.data.dialogues import word_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer()
