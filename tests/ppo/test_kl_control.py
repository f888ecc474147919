"""The coefficient of the KL penalty against TRL's, and what a checkpoint keeps of it."""

import json
import math

import numpy as np
import pytest
import torch
from trl.trainer import utils as trl_utils

from detox.ppo.kl_control import AdaptiveKLController, FixedKLController
from detox.ppo.moments import (
    RunningMoments,
)

pytestmark = pytest.mark.filterwarnings("ignore:`PPOConfig` is deprecated:FutureWarning")


def test_kl_controllers_equal_trl():
    rng = np.random.default_rng(0)
    pairs = [
        (AdaptiveKLController(0.2, 6.0, 100), trl_utils.AdaptiveKLController(0.2, 6.0, 100)),
        (FixedKLController(0.2), trl_utils.FixedKLController(0.2)),
    ]
    seen = set()
    for kl in [*rng.uniform(-5, 30, 20), *rng.uniform(5, 7, 20), math.inf]:
        for ours, theirs in pairs:
            ours.update(kl, 16)
            theirs.update(kl, 16)
            assert ours.value == pytest.approx(theirs.value, rel=1e-12)
        seen.add(pairs[0][0].value)
    assert len(seen) == 41 and pairs[1][0].value == 0.2


@pytest.mark.parametrize(
    "make, change",
    [
        (RunningMoments, lambda x: x.update(torch.tensor([1.0, 2.5]))),
        (lambda: AdaptiveKLController(0.2, 6.0, 100), lambda x: x.update(9.0, 16)),
        (lambda: FixedKLController(0.2), lambda x: x.update(9.0, 16)),
    ],
)
def test_state_survives_json_and_goes_on_identically(make, change):
    first, second = make(), make()
    change(first)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.state_dict() == first.state_dict()
    change(first)
    change(second)
    assert second.state_dict() == first.state_dict()
