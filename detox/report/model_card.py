"""The model card of an exported checkpoint: what it is, how to use it, what was measured, where it ends."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from detox.evaluation.checkpoints import Case
from detox.evaluation.examples import Results
from detox.report import quality, templating
from detox.stage.figures import decimal, fall, fall_bounds, signed

if TYPE_CHECKING:
    import config


_TASK = "summarization"
_UNTOLD = {"run", "checkpoints", "overwrite", "device", "threads", "save", "report_to"}
"""Settings that say where a run was made, not what it is."""


def text(settings: config.EvaluationStage, case: Case, found: Results, prepared: Mapping[str, Any]) -> str:
    """Return the model card as Markdown, with the front matter that the hub reads.

    Args:
        settings: of the evaluation.
        case: the checkpoint.
        found: its results.
        prepared: manifest of the prepared dialogues.
    """
    training, data = case.training, prepared["config"]["data"]
    told = {key: value for key, value in asdict(training).items() if key not in _UNTOLD and not key.startswith("plan")}
    body = templating.to_markdown(
        "model_card.md",
        name=settings.push_to_hub or Path(settings.export or "model").name,
        on_hub=settings.push_to_hub is not None,
        run=case.run.name,
        model=training.model,
        training=training,
        ppo=training.ppo,
        settings=told,
        max_new_tokens=settings.evaluation.max_new_tokens,
        data=data,
        counts=prepared["counts"],
        results=_without_commands(found),
    )
    front = _front_matter(case, found, data)
    return str(ModelCard.from_template(front, template_str="---\n{{ card_data }}\n---\n\n{{ body }}\n", body=body))


def _without_commands(found: Results) -> Results:
    """Return results without what was typed, which names folders that nobody else has."""
    training = {key: value for key, value in found.get("training", {}).items() if key != "command"}
    return {key: value for key, value in found.items() if key != "command"} | {"training": training}


def _front_matter(case: Case, found: Results, data: Mapping[str, Any]) -> ModelCardData:
    base, dataset = (name if _on_hub(name) else None for name in (case.training.model.base, data["dataset"]))
    basis = f"n = {found['n']} dialogues, {found['samples_per_dialogue']} samples each"
    mean, judged = (found[part]["mean"] for part in ("toxicity", "independent_judge"))
    measured = (
        ("toxicity", mean["after"], f"mean toxicity by {found['toxicity']['judge']} ({_against(mean)}; {basis})"),
        ("toxicity", judged["after"], f"by {found['independent_judge']['judge']} ({_against(judged)}; {basis})"),
        ("rouge", found["rouge"]["rougeL"]["after"], f"{quality.rouge_l(found)}, sampled summaries ({basis})"),
    )
    results = [
        EvalResult(
            task_type=_TASK,
            dataset_type=dataset or "dialogues",
            dataset_name=data["dataset"],
            dataset_split=found["split"],
            dataset_revision=data["revision"],
            metric_type=kind,
            metric_name=name,
            metric_value=round(value, 6),
        )
        for kind, value, name in measured
    ]
    return ModelCardData(
        model_name=f"{case.run.name}-{found['checkpoint']}",
        base_model=base,
        datasets=[dataset] if dataset else None,
        library_name="transformers",
        pipeline_tag=_TASK,
        tags=["detoxification", "ppo", "rlhf"],
        metrics=["toxicity", "rouge"],
        eval_results=results,
    )


def _against(mean: Mapping[str, Any]) -> str:
    change = signed(fall(mean["reduction"]))
    return f"before {decimal(mean['before'])}, {change}, 95% interval {fall_bounds(mean['ci95'])}"


def _on_hub(name: str) -> bool:
    """Return whether a model or dataset has the form of a hub name and is no folder or file here."""
    return re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name, re.ASCII) is not None and not Path(name).exists()
