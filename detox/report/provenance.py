"""Where the figures of a report come from: models, training, evaluation, versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from detox.report.table import Table
from detox.stage import versions
from detox.stage.figures import lookup

if TYPE_CHECKING:
    from detox.evaluation.examples import Results


_TRAINING = {
    "advantages": "advantages by",
    "updates": "updates",
    "batch_size": "summaries an update",
    "samples_per_dialogue": "of them a dialogue",
    "scored_summaries": "summaries scored in training",
    "learning_rate": "learning rate",
    "step_kl": "KL of an update, nats a token, which sets the learning rate",
    "kl_coef": "KL weight",
    "trained": "trained",
    "commit": "commit",
    "command": "trained by",
}
_SIZES = {"n": "dialogues", "samples_per_dialogue": "samples a dialogue", "references": "target summaries a dialogue"}
_ELSEWHERE = {*_SIZES, "rouge_unicode", "verdict", "verdict_sentence", "verdict_rule", "baseline_note"}


def table(results: Results) -> Table:
    """Return all of `results` that says what was evaluated and how."""
    training, installed = lookup(results, "training") or {}, lookup(results, "versions")
    rows = [(f"{role} model", str(name)) for role, name in (lookup(results, "models") or {}).items()]
    commit = training.get("commit")
    if isinstance(commit, str) and commit.endswith(versions.DIRTY):
        training = {**training, "commit": f"{commit.removesuffix(versions.DIRTY)}, and changes that are in no commit"}
    rows += [
        (label, f"{training[key]:,}" if isinstance(training[key], int) else str(training[key]))
        for key, label in _TRAINING.items()
        if training.get(key) is not None
    ]
    rows += [
        ("evaluated by" if key == "command" else key.replace("_", " "), str(value))
        for key, value in results.items()
        if isinstance(value, (str, int, float)) and key not in _ELSEWHERE
    ]
    rows += [(label, str(results[key])) for key, label in _SIZES.items() if key in results]
    if isinstance(installed, Mapping):
        rows.append(("versions", ", ".join(f"{name} {version}" for name, version in installed.items())))
    return Table(("What", "Value"), tuple(rows), labels=2)
