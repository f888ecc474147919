"""What the tests of the trainer train."""

from __future__ import annotations

import pytest

from tests import tiny


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tiny.t5(tmp_path_factory.mktemp("models") / "t5")
