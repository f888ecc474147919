"""What the tests of artefacts share."""

from __future__ import annotations

import pytest

from detox.stage import folders
from tests.stage.artefacts import publish


@pytest.fixture(params=["exchange", "aside"])
def replacement(request, monkeypatch):
    """Both ways to replace a folder: in one step, or by two renames where the system knows no such step."""
    if request.param == "aside":
        monkeypatch.setattr(folders, "_exchange", lambda one, other: False)
    return request.param


@pytest.fixture
def artefact(tmp_path):
    return publish(tmp_path / "run" / "prepared")
