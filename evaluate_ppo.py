"""Stage 3: is the summarizer civil now, and is it still a summarizer?

Compares PPO checkpoints with the reference they started from, on held-out dialogues under the same seeds;
writes checkpoints/<run>/evaluation/<checkpoint>. The reference's part is computed once and kept beside it.
--export and --push-to-hub pass a checkpoint on as a plain model; --ask tries both models on one dialogue.
Under `accelerate launch` or `torchrun` several processes share the work; what they write is the same, if each has as
many threads (--threads) as the single one.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Set
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import config
from detox.stage import cli, commands, lack_of_memory

if TYPE_CHECKING:
    from detox.evaluation.checkpoints import Case
    from detox.evaluation.examples import Line, Results
    from detox.stage.parallel import Processes


def main(settings: config.EvaluationStage) -> None:
    from detox.evaluation.checkpoints import find
    from detox.evaluation.folders import data_as_trained, has_other_data, is_finished, locked
    from detox.report import ask, export
    from detox.stage import notes, parallel

    processes = parallel.start(settings.device)
    if settings.select is not None:
        settings = replace(settings, split="validation")
    cases = processes.on_main(lambda: find(settings, config.PPOTraining))
    processes.on_main(lambda: export.check(settings, cases[0]))
    for case in cases:
        if has_other_data(case):
            otherwise = f"if that was not meant, {data_as_trained(settings, case)}"
            notes.tell(f"{case.run / 'prepared'} is not what {case.name} was trained on; {otherwise}")
        if case.training.run_name != case.run.name:
            notes.tell(
                f"{case.checkpoint} was trained as run {case.training.run_name}; here it is one of {case.run.name}"
            )
    if settings.ask is not None:
        return processes.on_main(lambda: ask.ask(settings, cases[0]))
    with processes.within(lambda: locked(cases)):
        todo = processes.on_main(lambda: [case for case in cases if not is_finished(settings, case)])
        known: dict[str, dict[str, Any]] = {}
        for case in todo:
            with lack_of_memory.told(f"lower --evaluation.batch-size={settings.evaluation.batch_size}"):
                evaluate(settings, case, known, processes)
        processes.on_main(lambda: conclude(settings, cases))


def of_run(settings: config.EvaluationStage, named: Set[str]) -> list[str]:
    """Return what the checkpoints say of settings that none of the flags `named` sets."""
    from detox.evaluation import as_trained

    return as_trained.words(settings, named, config.PPOTraining)


# ------------------------------------------------------------------------------------------------- evaluation


def evaluate(
    settings: config.EvaluationStage, case: Case, known: dict[str, dict[str, Any]], processes: Processes
) -> None:
    """Evaluate one checkpoint and write it down.

    Args:
        settings: of the stage.
        case: the checkpoint.
        known: the reference's part by key, as this process has read or made it.
        processes: share the work; the main one writes.
    """
    from detox.evaluation import examples, reference, results, scorers, summaries
    from detox.evaluation import task as evaluation_task
    from detox.evaluation.alarms import OTHER_DATA
    from detox.evaluation.checkpoints import check_same_data, check_unchanged, unchanged
    from detox.evaluation.folders import has_other_data, inputs, place, publish, take_place
    from detox.evaluation.provenance import provenance

    processes.on_main(lambda: check_unchanged(case))
    task = evaluation_task.prepare(settings, case, processes)
    with processes.within(lambda: publish(settings, place(settings, case), inputs(case), str(task.device))) as folder:
        processes.on_main(lambda: check_same_data(case))  # of which the draft has taken note
        k = settings.evaluation.samples
        draws = {"samples": summaries.Draw(stop=k), "greedy": summaries.Draw(greedy=True)}
        with unchanged(case):
            engine = evaluation_task.load_engine(settings, case, str(case.checkpoint / "adapter"), task.device)
        after = task.summarize(engine, draws, case.name)
        del engine
        engine = evaluation_task.load_engine(settings, case, case.training.model.adapter, task.device)
        groups, title = list(after.values()), f"{case.name}, KL"
        summaries.teacher_force(engine, task.queries, groups, settings.evaluation, title=title, processes=processes)
        before = reference.run(case, task, engine, known)
        task.score(groups, known=list(before["records"].values()))
        if processes.is_main:
            check_unchanged(case)
            lines = examples.examples(task.split, before["records"], after, before["dialogue_toxicity"])
            found = results.results([lines], settings) | provenance(task, case, engine)
            if has_other_data(case):
                found["alarms"].append(asdict(OTHER_DATA))
            found["alarms"] += map(asdict, scorers.unread(task.classifiers.values(), lines))
            write(folder, found, lines)
    processes.on_main(lambda: take_place(settings, case))


def write(folder: Path, found: Results, lines: list[Line]) -> None:
    """Write results, examples and the report in its forms."""
    from detox.report import pages, plots

    texts = {
        "results.json": json.dumps(found, indent=2) + "\n",
        "examples.jsonl": "".join(json.dumps(line) + "\n" for line in lines),
        "report.md": pages.markdown(found, lines),
        "report.html": pages.html(found, lines),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    plots.plots(found, lines, folder)


# ---------------------------------------------------------------------------------------------- what came out


def conclude(settings: config.EvaluationStage, cases: list[Case]) -> None:
    """Print what the evaluations on disk say, and compare them where there are several."""
    from detox.data.counts import FEW
    from detox.evaluation import several_checkpoints
    from detox.evaluation.folders import STAGE, publish
    from detox.report import export, terminal
    from detox.stage import artifacts, figures, notes

    found, lines = several_checkpoints.compare(settings, cases)
    place = cases[-1].target
    if "compared" in found:
        print(notes.folded(several_checkpoints.table(found)))
        content = hashlib.blake2b(json.dumps(found, sort_keys=True).encode(), digest_size=4).hexdigest()
        place = cases[0].target.with_name(f"comparison{cases[0].suffix}-{content}")
        if place.exists() and not settings.overwrite:
            artifacts.read_manifest(place, STAGE, remedy="move it away and type the same command again")
        else:
            with publish(settings, place, {case.name: case.target for case in cases}, "cpu") as folder:
                write(folder, found, lines)
    print(f"\n{found['checkpoint']} of {found['run']}, {found['n']} dialogues ({found['split']})\n")
    print(notes.folded(terminal.table(found)))
    if settings.power is not None:
        print(notes.folded(several_checkpoints.power_sentence(found, lines, settings.power)))
    print(f"report: {place / 'report.html'}")
    export.export(settings, cases[0], found)
    if settings.select is not None:
        chosen = several_checkpoints.chosen(settings, cases, found)
        if found["n"] < FEW:
            dialogues = figures.count(found["n"], "validation dialogue")
            print(f"note: selected by {dialogues}, fewer than {FEW}: chance may have decided")
        print(f"selected: {chosen}, the least toxic to the judge that keeps {100 * settings.select:g}% of ROUGE-L")
        again = commands.again(
            "evaluate_ppo.py", settings, "--checkpoint", str(chosen), without=("--select", "--split")
        )
        print(f"next: {again}")


if __name__ == "__main__":
    sys.exit(cli.run(config.EvaluationStage, main, description=__doc__, of_run=of_run))
