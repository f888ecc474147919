"""Ridge regression of the value head."""

import pytest
import torch
from torch import nn

from detox.ppo import value_head
from detox.ppo.value_head import Critic, Lesson


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
    assert value_head.fit(head, features, torch.arange(10.0), owners) == 0
    assert not head.weight.any() and float(head.bias.detach()) == 4.5, "nothing is held out"
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


def ridge(x, y, strength):
    """Weight and bias by the normal equations; `strength` in the features' mean variance times their number."""
    middle = x.mean(0)
    inner = (x - middle).T @ (x - middle)
    penalty = strength * inner.trace() / len(inner) * torch.eye(len(inner), dtype=x.dtype)
    weight = torch.linalg.solve(inner + penalty, (x - middle).T @ (y - y.mean()))
    return weight, y.mean() - middle @ weight


@pytest.mark.parametrize(("noise", "best"), [(0.1, 1e-3), (3.0, 1e-2), (8.0, 1e-1), (26.0, 1.0)])
def test_the_strength_is_the_one_that_predicts_responses_held_out_best(noise, best):
    """Every fifth response is predicted from the rest, by each strength of a decade's step."""
    features, targets, owners = problem(43, noise, d=12, tokens=3)
    x, y = features.double(), targets.double()
    errors = {strength: 0.0 for strength in (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)}
    mean_alone = 0.0
    for held_out in range(5):
        test = torch.tensor([owner % 5 == held_out for owner in owners.tolist()])
        mean_alone += float((y[~test].mean() - y[test]).square().sum())
        for strength in errors:
            weight, bias = ridge(x[~test], y[~test], strength)
            errors[strength] += float((x[test] @ weight + bias - y[test]).square().sum())
    chosen = min(errors, key=errors.get)
    assert chosen == best
    for scale in (1.0, 1e-4):
        head = nn.Linear(12, 1)
        explained = value_head.fit(head, features, targets * scale, owners)
        assert explained == pytest.approx(1 - errors[chosen] / mean_alone, rel=1e-4)
        weight, bias = ridge(x, y * scale, chosen)
        torch.testing.assert_close(head.weight[0].double(), weight, rtol=1e-4, atol=1e-5 * scale)
        assert float(head.bias) == pytest.approx(float(bias), rel=1e-4)


def test_features_that_are_all_the_same_give_the_mean():
    owners = torch.arange(10).repeat_interleave(2)
    head = nn.Linear(4, 1)
    assert value_head.fit(head, torch.ones(20, 4), torch.arange(20.0), owners) == 0
    torch.testing.assert_close(head(torch.ones(1, 4)), torch.tensor([[9.5]]))


def test_trust_is_the_share_of_the_variance_that_the_values_told_before():
    critic = Critic(nn.Linear(2, 1), window=3)
    assert critic.trust == 0
    mask = torch.tensor([[True, True], [True, False]])
    returns = torch.tensor([[1.0, 3.0], [5.0, 99.0]])
    # Off their mean, 3: -2, 0, 2; the values move by -1, 0, 1 around theirs: 2 of 8 are left.
    critic.judge(torch.tensor([[10.0, 11.0], [12.0, -99.0]]), returns, mask)
    assert critic.record[0].tolist() == [2.0, 8.0] and critic.trust == pytest.approx(0.75)
    critic.judge(torch.tensor([[3.0, 0.0], [-3.0, 0.0]]), returns, mask)  # 25 + 0 + 25 are left
    assert critic.record[1].tolist() == [50.0, 8.0] and critic.trust == 0, "never below 0"
    for _ in range(8):
        critic.judge(returns, returns, mask)
    assert critic.trust == 1, "eight rollouts are remembered"


def test_a_critic_is_fitted_to_what_it_remembers_and_what_is_new():
    features, targets, _ = problem(12, 0.1, d=3, tokens=2)
    lessons = [
        Lesson(features[i : i + 4], targets[i : i + 4], torch.tensor([2, 2]) if i else torch.tensor([1, 3]))
        for i in range(0, 24, 4)
    ]
    critic = Critic(nn.Linear(3, 1), window=2)
    critic.learn(lessons[:3])
    explained = critic.learn(lessons[3:4])
    head = nn.Linear(3, 1)
    owners = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5])
    assert explained == value_head.fit(head, features[4:16], targets[4:16], owners)
    assert torch.equal(critic.head.weight, head.weight) and torch.equal(critic.head.bias, head.bias)
    critic.judge(torch.ones(1, 2), torch.tensor([[1.0, 2.0]]), torch.ones(1, 2, dtype=torch.bool))
    other = Critic(nn.Linear(3, 1), window=2)
    other.load_tensors(critic.tensors())
    assert other.trust == critic.trust and len(other.lessons) == 2
    assert other.learn(lessons[4:5]) == critic.learn(lessons[4:5])
