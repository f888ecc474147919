"""What must hold before the first step, at its limits."""

from __future__ import annotations

import pytest
import torch

from detox.ppo.checks import TrainingError, check_ratio, check_reference


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-4), (torch.bfloat16, 5e-3)])
def test_rounding_passes_and_a_mistake_does_not(dtype, most):
    mask = torch.tensor([[True, True, False]])
    old = torch.tensor([[-1.0, -2.0, -3.0]])
    for share in (0.0, 0.9):
        check_ratio(share * most, dtype)
        check_reference(old, old + share * most * torch.tensor([[1.0, -1.0, 100.0]]), mask, dtype)
    with pytest.raises(TrainingError, match="not 1|ratio"):
        check_ratio(1.1 * most, dtype)
    with pytest.raises(TrainingError, match="differ by"):
        check_reference(old, old + 1.1 * most * torch.tensor([[1.0, -1.0, 0.0]]), mask, dtype)
    for broken in (check_ratio, lambda gap, dtype: check_reference(old, old + gap, mask, dtype)):
        with pytest.raises(TrainingError, match="not 1|no numbers"):
            broken(float("nan"), dtype)
