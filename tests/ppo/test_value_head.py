"""Ridge regression of the value head."""

import torch
from torch import nn

from detox.ppo import value_head


def problem(responses, noise, d=24, tokens=10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randn(d, generator=generator)
    centres = torch.randn(responses, d, generator=generator)
    features = centres.repeat_interleave(tokens, 0) + 0.05 * torch.randn(responses * tokens, d, generator=generator)
    per_response = centres @ truth + noise * torch.randn(responses, generator=generator) + 3
    owners = torch.arange(responses).repeat_interleave(tokens)
    return features, per_response.repeat_interleave(tokens), owners


def test_a_linear_value_is_found():
    features, targets, owners = problem(200, 0.01)
    head = nn.Linear(24, 1)
    assert value_head.fit(head, features, targets, owners) > 0.98
    new_features, new_targets, _ = problem(200, 0.01)
    assert float((head(new_features).squeeze() - new_targets).square().mean()) < 0.1


def test_noise_gives_the_mean_and_explains_nothing():
    features, _, owners = problem(40, 0.0)
    targets = torch.randn(40, generator=torch.Generator().manual_seed(9)).repeat_interleave(10) + 5
    head = nn.Linear(24, 1)
    explained = value_head.fit(head, features, targets, owners)
    assert explained < 0.15, "rows of one response do not vouch for each other"
    assert abs(float(head(features).mean()) - float(targets.mean())) < 0.2


def test_one_response_and_equal_targets_give_the_mean():
    features, targets, owners = problem(1, 0.0)
    head = nn.Linear(24, 1)
    assert value_head.fit(head, features, targets, owners) == 0
    torch.testing.assert_close(head(features).squeeze(), targets)
    features, _, owners = problem(10, 0.0)
    assert value_head.fit(head, features, torch.full((100,), 2.5), owners) == 0
    torch.testing.assert_close(head(features).squeeze(), torch.full((100,), 2.5), atol=1e-4, rtol=1e-4)


def test_a_fold_is_predicted_from_the_others():
    """32 responses tell of 24 features, 8 do not."""
    features, targets, owners = problem(40, 0.01)
    assert value_head.fit(nn.Linear(24, 1), features, targets, owners) > 0.9


def test_where_the_features_lie_changes_no_value():
    """A head with a bias sees differences alone, however far the hidden states are from 0."""
    features, targets, owners = problem(60, 0.5)
    near, far = nn.Linear(24, 1).double(), nn.Linear(24, 1).double()
    explained = [
        value_head.fit(head, features.double() + offset, targets.double(), owners)
        for head, offset in ((near, 0), (far, 30))
    ]
    assert explained[0] == explained[1] or abs(explained[0] - explained[1]) < 1e-6
    torch.testing.assert_close(near(features.double()), far(features.double() + 30), atol=1e-6, rtol=1e-6)
