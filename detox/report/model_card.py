"""The model card of an exported checkpoint: what it is, how to use it, what was measured, where it ends."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCardData

from detox.evaluation.checkpoints import Case
from detox.evaluation.examples import Results
from detox.report import contents, pages
from detox.report.contents import Section, Table
from detox.stage.figures import count, decimal, fall, fall_bounds, signed

if TYPE_CHECKING:
    import config


_TASK = "summarization"
_USE = """## Use

```python
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

name = {name}
tokenizer = AutoTokenizer.from_pretrained(name)
model = AutoModelForSeq2SeqLM.from_pretrained(name)

dialogue = "#Person1#: You are late again.\\n#Person2#: I am sorry, the bus broke down."
prompt = model.config.prompt_template.replace("{{dialogue}}", dialogue)
output = model.generate(**tokenizer(prompt, return_tensors="pt"))
print(tokenizer.decode(output[0], skip_special_tokens=True))
```

This is greedy, at most {max_new_tokens} new tokens. The sampled summaries below were drawn from the full distribution:
`model.generate(..., do_sample=True, top_k=0, top_p=1.0)`. Versions of `transformers` before 5 also have
`pipeline("text2text-generation", name)(prompt, num_beams=1)`, where `num_beams=1` keeps it from a search with four
beams; version 5 has removed it.

The prompt, as a JSON string; `{{dialogue}}` marks the dialogue's place. With the dialogue it had {max_query_tokens:,}
tokens at most in training:

```json
{prompt}
```

The weights are float32. `dtype=torch.bfloat16` loads them in half the memory, but rounds part of the change that
training made away. The figures below were measured on base and adapter, before they were merged ({engine}).

"""
_UNTOLD = {"run", "checkpoints", "overwrite", "device", "threads", "save", "report_to"}
"""Settings that say where a run was made, not what it is."""
_DETAILS = """<details><summary>All settings of training</summary>

```json
{settings}
```

</details>

"""


def text(settings: config.EvaluationStage, case: Case, found: Results, prepared: Mapping[str, Any]) -> str:
    """Return the model card as Markdown, with the front matter that the hub reads.

    Args:
        settings: of the evaluation.
        case: the checkpoint.
        found: its results.
        prepared: manifest of the prepared dialogues.
    """
    data = prepared["config"]["data"]
    made_with = {
        key: value for key, value in asdict(case.training).items() if key not in _UNTOLD and not key.startswith("plan")
    }
    use = _USE.format(
        name=json.dumps(settings.push_to_hub or Path(settings.export or "model").name),
        max_new_tokens=settings.evaluation.max_new_tokens,
        max_query_tokens=data["max_query_tokens"],
        prompt=json.dumps(data["prompt"]),
        engine=found["engine"],
    )
    return "".join(
        (
            f"---\n{_front_matter(case, found, data)}\n---\n\n# Dialogue summarizer, detoxified by PPO\n\n",
            pages.markdown_sections([_summary(case, found)]),
            use,
            pages.markdown_sections(contents.figures(found)),
            pages.markdown_sections([_data(prepared), _training(case.training), _limits(case, found, data)]),
            _DETAILS.format(settings=json.dumps(made_with, indent=2)),
            pages.markdown_sections(contents.endings(_without_commands(found))).rstrip("\n") + "\n",
        )
    )


def _without_commands(found: Results) -> Results:
    """Return results without what was typed, which names folders that nobody else has."""
    training = {key: value for key, value in found.get("training", {}).items() if key != "command"}
    return {key: value for key, value in found.items() if key != "command"} | {"training": training}


def _front_matter(case: Case, found: Results, data: Mapping[str, Any]) -> str:
    training = case.training
    dataset_type = data["dataset"] if _on_hub(data["dataset"]) else "dialogues"
    basis = f"n = {found['n']} dialogues, {found['samples_per_dialogue']} samples each"
    mean, judged = (found[part]["mean"] for part in ("toxicity", "independent_judge"))
    measured = (
        ("toxicity", mean["after"], f"mean toxicity by {found['toxicity']['judge']} ({_against(mean)}; {basis})"),
        ("toxicity", judged["after"], f"by {found['independent_judge']['judge']} ({_against(judged)}; {basis})"),
        ("rouge", found["rouge"]["rougeL"]["after"], f"{contents.rouge_l(found)}, sampled summaries ({basis})"),
    )
    results = [
        EvalResult(
            task_type=_TASK,
            dataset_type=dataset_type,
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
        base_model=training.model.base if _on_hub(training.model.base) else None,
        datasets=[data["dataset"]] if _on_hub(data["dataset"]) else None,
        library_name="transformers",
        pipeline_tag=_TASK,
        tags=["detoxification", "ppo", "rlhf"],
        metrics=["toxicity", "rouge"],
        eval_results=results,
    ).to_yaml()


def _against(mean: Mapping[str, Any]) -> str:
    change = signed(fall(mean["reduction"]))
    return f"before {decimal(mean['before'])}, {change}, 95% interval {fall_bounds(mean['ci95'])}"


def _on_hub(name: str) -> bool:
    """Return whether a model or dataset has the form of a hub name and is no folder or file here."""
    return re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", name, re.ASCII) is not None and not Path(name).exists()


def _summary(case: Case, found: Results) -> Section:
    model = case.training.model
    supervised = "" if model.adapter == "none" else f" with the supervised LoRA {model.adapter}"
    what = (
        f"{model.base}{supervised}, fine-tuned by PPO until a classifier finds its summaries civil, and merged into "
        f"one plain model: {found['checkpoint']} of the run {case.run.name}."
    )
    alarms = tuple((f"{level}, {name}", sentence) for level, name, sentence in contents.alarms(found))
    paragraphs = (what, f"{contents.headline(found)}.", *contents.opening(found))
    return Section("What this is", paragraphs, (), alarms)


def _data(prepared: Mapping[str, Any]) -> Section:
    data, counts = prepared["config"]["data"], prepared["counts"]
    rows = [("dataset", data["dataset"])]
    rows += [("revision", data["revision"])] if data["revision"] else []
    rows += [
        (f"{split} dialogues", f"{counts[f'{split}/kept']:,} from {counts[f'{split}/read']:,} rows")
        for split in ("train", "validation", "test")
    ]
    rows += [("tokens of a prompt, at most", f"{data['max_query_tokens']:,}")]
    rows += [("longer dialogues", "shortened from their end" if data["truncate"] else "left out")]
    return Section("Data", (), (Table(("What", "Value"), tuple(rows), labels=2),))


def _training(training: config.PPOTraining) -> Section:
    ppo, reward = training.ppo, training.reward
    rows = (
        ("reward", f"{reward.describe()}, for the summary alone"),
        ("updates", f"{ppo.updates} of {ppo.batch_size} summaries, {ppo.ppo_epochs} passes over each"),
        ("advantages", _advantages(ppo)),
        ("learning rate", _learning_rate(ppo)),
        ("KL weight", f"{ppo.kl_coef:g}, {ppo.kl_control}, against the model that training started from"),
        ("clip range", f"{ppo.clip_range:g}"),
        ("trained", f"LoRA of rank {ppo.lora_r}, {ppo.lora_scope}, {ppo.lora_targets}"),
        ("sampling", f"temperature {training.rollout.temperature:g}, at most {training.rollout.max_new_tokens} tokens"),
        ("seed", str(training.seed)),
    )
    return Section("Training", (), (Table(("What", "Value"), rows, labels=2),))


def _advantages(ppo: config.PPO) -> str:
    return ppo.advantages + (f", {ppo.samples} summaries a dialogue" if ppo.samples > 1 else "")


def _learning_rate(ppo: config.PPO) -> str:
    if ppo.schedule == "kl":
        return f"such that an update moves the policy by {ppo.step_kl:g} nats a token, less towards the end"
    return f"{ppo.learning_rate:g}, {ppo.schedule}"


def _limits(case: Case, found: Results, data: Mapping[str, Any]) -> Section:
    return Section(
        "Limits",
        (
            f"The figures are of {count(found['n'], 'dialogue')} of the {found['split']} split of "
            f"{data['dataset']}; on other dialogues the model may do better or worse.",
            "Toxicity is what classifiers say of the summary alone. They err in both directions, most on words and "
            "groups that they have seldom seen; no person has judged these summaries.",
            f"One training run (seed {case.training.seed}): the intervals cover other dialogues, not other runs.",
            "A civil summary can leave out that somebody was insulted. Where that matters, read the dialogue.",
            "The licences and terms of the base model, the dialogues and the classifiers hold for this model too.",
        ),
    )
