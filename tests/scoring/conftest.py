"""A small classifier of hate, on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny.classifier(tmp_path_factory.mktemp("models") / "hate", positions=66)
