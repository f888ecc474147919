"""What every test shares: a quiet, repeatable environment."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hypothesis

hypothesis.settings.register_profile("suite", deadline=None, database=None, derandomize=True, max_examples=100)
hypothesis.settings.load_profile("suite")
