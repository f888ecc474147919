"""The toxicity measurement (toxicity.py, a module for `evaluate.load`), with a classifier that is in memory already."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import evaluate
import torch

from detox.scoring.classifier import Classifier


def load_toxicity(
    classifier: Classifier, device: torch.device | str = "auto", batch_size: int = 64
) -> evaluate.Measurement:
    """Return the measurement of toxicity.py beside this file, with this classifier.

    Args:
        classifier: is moved to `device`; `compute` takes any of its labels as `toxic_label`.
        device: where it computes.
        batch_size: texts in one forward pass.
    """
    with _own_module_cache():
        return evaluate.load(
            str(Path(__file__).resolve().parent),
            module_type="measurement",
            classifier=classifier,
            device=str(device),
            batch_size=batch_size,
        )


@contextmanager
def _own_module_cache() -> Iterator[None]:
    """Let `evaluate` copy the module's code to a temporary folder of this process and import it from there.

    Its usual place, below the home folder, may be read-only, and a copy that is there already is run unseen.
    """
    package = evaluate.config.MODULE_NAME_FOR_DYNAMIC_MODULES
    usual, path = evaluate.config.HF_MODULES_CACHE, list(sys.path)
    others = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == package}
    with tempfile.TemporaryDirectory(prefix="detox-") as folder:
        evaluate.config.HF_MODULES_CACHE = Path(folder)
        try:
            sys.path.insert(0, folder)
            yield
        finally:
            evaluate.config.HF_MODULES_CACHE, sys.path[:] = usual, path
            for name in [name for name in sys.modules if name.partition(".")[0] == package]:
                del sys.modules[name]
            sys.modules.update(others)
