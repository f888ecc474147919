"""The benchmarks run, at tiny shapes, and their arithmetic is right."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from types import SimpleNamespace

import psutil
import pytest
import torch

import config
import data_preparation as stage_1
import evaluate_ppo
import training_ppo
from benchmarks import (
    busy,
    data_preparation,
    demo_seeds,
    evaluation_time,
    evaluations,
    ppo_step,
    scaling,
    stages,
    step_size,
    unseen,
    worlds,
)
from detox.demo import corpus
from detox.model import policy
from detox.stage import cli, parsing

SCRIPTS = sorted(
    path for path in Path(ppo_step.__file__).parent.glob("*.py") if "__main__" in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_each_benchmark_starts_from_a_clone_that_is_not_installed(path):
    """Its first imports find the clone's own packages, from any folder."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, path, "--help"], cwd=path.parent, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {path.name}")


def test_prompts_add_up_and_stay_within_limits():
    lengths = ppo_step.prompt_lengths(16, 60, 400, 184)
    assert min(lengths) >= 60 and max(lengths) == 400
    assert sum(lengths) == pytest.approx(16 * 184, abs=16)
    assert lengths == sorted(lengths) and len(set(lengths)) > 10


def test_useful_work_is_what_torch_counts():
    """torch's own counter sees the same products in an unpadded forward pass of the same model."""
    from torch.utils.flop_counter import FlopCounterMode

    shape, length, new_tokens = ppo_step.Shape(32, 64, 2, 2, 16, 160, 32, 2, 100), 12, 5
    model, classifier = ppo_step.make_t5(shape), ppo_step.make_classifier(shape, "cpu", torch.float32)
    for made in (model, classifier):
        made.set_attn_implementation("eager")  # the counter knows no fused attention on a CPU
    counted = {}
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            model(input_ids=torch.full((1, length), 5), decoder_input_ids=torch.full((1, new_tokens), 5))
        counted["rollout"] = counter.get_total_flops() / 1e9
        with FlopCounterMode(display=False) as counter:
            classifier(torch.full((1, new_tokens + 2), 5))
        counted["score"] = counter.get_total_flops() / 1e9
    work = ppo_step.useful_gflop(shape, [length], new_tokens, ppo_step.STOCK)
    assert work["rollout"] == pytest.approx(counted["rollout"], rel=0.02)  # it counts causal attention in full
    assert work["score"] == pytest.approx(counted["score"], rel=0.02)  # and the classifier's two labels
    assert work["old"] == 0 and work["reference"] == work["rollout"]
    frozen_encoder = ppo_step.useful_gflop(shape, [length], new_tokens, replace(ppo_step.STOCK, lora_scope="decoder"))
    assert frozen_encoder["reference"] < work["reference"] and frozen_encoder["epochs"] < work["epochs"]


def test_each_variant_measures_its_phases_and_the_summary_relates_them(monkeypatch, capsys):
    arguments = ppo_step.parse(
        "--shape tiny --batch-size 4 --minibatch-size 2 --prompt-tokens 4 20 --new-tokens 4".split()
    )
    arguments.variants = ["tutorial", "trl", "same", "ours-hf"]
    once = {name: ppo_step.run_child(name, arguments) for name in ["peak", *arguments.variants]}
    for name in arguments.variants:
        seconds = once[name]["seconds"]
        assert all(seconds[phase] > 0 for phase in ("rollout", "score", "reference", "epochs")), name
        assert seconds["total"] == pytest.approx(sum(seconds[phase] for phase in ppo_step.PHASES))
    assert once["trl"]["seconds"]["old"] > 0
    monkeypatch.setattr(ppo_step, "start_child", lambda variant, _: once[variant])
    found = ppo_step.measure(arguments)
    summary = found["summary"]
    expected = once["trl"]["seconds"]["total"] / once["same"]["seconds"]["total"]
    assert summary["same"]["times_as_fast_as_trl"] == pytest.approx(expected)
    assert json.loads(json.dumps(found)) is not None
    assert "| same (float32) |" in ppo_step.tables(found)
    capsys.readouterr()


def test_summary_takes_ratios_within_a_repeat():
    def run(variant, total):
        seconds = dict.fromkeys(ppo_step.PHASES, 0.0) | {"total": total}
        gflop = dict.fromkeys(ppo_step.PHASES, 1.0)
        return {"variant": variant, "seconds": seconds, "gflop": gflop, "dtype": "float32",
                "peak_rss_mb": total, "peak_device_mb": None, "cpu_seconds": 1.0}  # fmt: skip

    peak = {"variant": "peak", "gflops": {"float32": 2.0, "bfloat16": 4.0}}
    runs = [
        run("trl", 2.0),
        run("same", 1.0),
        run("trl", 20.0),
        run("same", 5.0),
        run("trl", 4.0),
        run("same", 2.0),
        peak,
    ]
    for found in runs[:-1]:
        found["seconds"] = {phase: found["seconds"]["total"] for phase in (*ppo_step.PHASES, "total")}
    summary = ppo_step.summarize(runs, ["trl", "same"])
    assert summary["same"]["times_as_fast_as_trl"] == 2.0  # of 2, 4, 2; the ratio of the medians says the same here
    assert summary["same"]["times_as_fast_as_trl_range"] == [2.0, 4.0]
    assert summary["trl"]["range"] == [2.0, 20.0] and summary["trl"]["seconds"]["total"] == 4.0
    assert summary["same"]["share_of_peak"]["epochs"] == pytest.approx(0.5 / 2.0)


def evaluated(toxicity, rouge):
    change = {"before": 1.0, "after": 1 - toxicity, "reduction": toxicity}
    return {
        "toxicity": {"mean": change, "std": change},
        "independent_judge": {"mean": change, "std": change},
        "rouge": {"rougeL": {"before": 0.75, "after": rouge}},
        "reward": {"before": 1.0, "after": 2.0},
        "drift": {"kl_per_summary": 3.0},
        "n": 2,
    }


def test_seeds_find_insults_that_no_training_split_has():
    lines = [
        {"before": {"samples": [{"summary": "Tom calls Ann a dolt."}, {"summary": "Tom left."}]},
         "after": {"samples": [{"summary": "Tom is angry."}, {"summary": "Tom left."}]}}
    ]  # fmt: skip
    found = demo_seeds.figures(evaluated(0.5, 0.7), lines)
    assert found["held_out_before"] == 0.5 and found["held_out_after"] == 0
    assert found["toxicity_mean"] == -0.5


def test_seeds_table_gives_median_and_range_of_each_setting():
    runs = []
    for name, shift in (("default", 0.0), ("probability", -0.4)):
        for seed, value in enumerate((0.5, 0.9, 0.8)):
            text = [{"before": {"samples": [{"summary": "a"}]}, "after": {"samples": [{"summary": "b"}]}}]
            figures = demo_seeds.figures(evaluated(value + shift, 0.7), text)
            learned = demo_seeds.learning(updates([1.0, 2.0], explained=None if shift else seed))
            runs.append({"settings": name, "seed": seed, "training_seconds": 1.0, **figures, **learned})
    table = demo_seeds.table(runs, ["default", "probability"])
    assert "| toxicity, mean | -80% (-90% to -50%) | -40% (-50% to -10%) |" in table
    assert "median of the updates | +1.00 (+0.00 to +2.00) | none |" in table


def updates(scores, explained=None):
    key = "ppo/val/explained_variance"
    return [
        {"objective/score_mean": score, key: explained, "objective/scored_summaries": 16 * i}
        for i, score in enumerate(scores, start=1)
    ]


def test_seeds_say_when_the_score_has_arrived_and_what_it_cost():
    low, high = [1.0] * 5, [2.0] * 5
    assert demo_seeds.learning(updates(low + high))["arrived"] == 6
    assert demo_seeds.learning(updates(low + high + low + high))["arrived"] == 16
    assert demo_seeds.learning(updates(high))["arrived"] == 1
    assert demo_seeds.learning(updates(high + low))["arrived"] is None
    assert demo_seeds.learning(updates(high))["scored"] == 80


def test_seeds_run_the_three_stages_with_the_settings_flags(tmp_path, monkeypatch):
    calls = []

    def run(command, **_):
        calls.append(command[1:])
        if command[1].endswith("evaluate_ppo.py"):
            folder = tmp_path / "stock-like-3" / "evaluation" / "step-0020"
            folder.mkdir(parents=True)
            (folder / "results.json").write_text(json.dumps(evaluated(0.5, 0.7)))
            line = {side: {"samples": [{"summary": "x"}]} for side in ("before", "after")}
            (folder / "examples.jsonl").write_text(json.dumps(line) + "\n")
            (tmp_path / "stock-like-3" / "ppo").mkdir()
            lines = "".join(json.dumps(entry) + "\n" for entry in updates([1.0, 2.0]))
            (tmp_path / "stock-like-3" / "ppo" / "metrics.jsonl").write_text(lines)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(stages.subprocess, "run", run)
    output = tmp_path / "out.json"
    demo_seeds.main(
        ["--seeds", "3", "--settings", "stock-like", "--checkpoints", str(tmp_path), "--output", str(output),
         "--training", "--ppo.updates 2"]
    )  # fmt: skip
    assert [command[0].rsplit("/", 1)[-1] for command in calls] == [
        "data_preparation.py", "training_ppo.py", "evaluate_ppo.py",
    ]  # fmt: skip
    training = " ".join(calls[1])
    assert "--seed 3" in training and "--engine hf" in training and training.endswith("--ppo.updates 2")
    for flags, stage in zip(calls, (config.Preparation, config.PPOTraining, config.EvaluationStage), strict=True):
        assert parsing.parse(stage, flags[1:]).run_name == "stock-like-3"
    assert json.loads(output.read_text())["runs"][0]["toxicity_std"] == -0.5


WORLD_NAMES = tuple(worlds.WORLDS)


@pytest.mark.parametrize("name", WORLD_NAMES)
def test_worlds_insult_in_words_of_their_own_and_hide_a_part_from_the_classifier(name):
    world, rng = worlds.WORLDS[name], Random(0)
    new = {"service": (*worlds.NEW_CURSES, *worlds.NEW_CURSE_KINDS), "standup": ("brick", "vanished", "rats")}[name]

    def says(text, words):
        return not set(words).isdisjoint(re.findall(r"\w+", text))

    for share, seen in ((0.0, False), (1.0, True)):
        examples = [world.example(rng, share, 2) for _ in range(200)]
        summaries = [summary for example in examples for summary in example.summaries]
        assert all(says(summary.text, new) == seen for summary in summaries if summary.rude)
        assert not any(says(summary.text, new) for summary in summaries if not summary.rude)
        assert not any(summary.rude for example in examples if not example.heated for summary in example.summaries)
        assert 0.2 < sum(summary.rude for summary in summaries) / len(summaries) < 0.5
        assert not any(corpus.insults_in(example.dialogue) for example in examples), "the demo's own insults"
    assert not any(says(text, new) for text, _ in worlds.labelled(world, 0, 500, 0.0))


def test_a_recipe_knows_what_the_models_follow_from():
    world = worlds.WORLDS["standup"]
    assert worlds.recipe(world) == worlds.recipe(replace(world))
    for changed in (worlds.tiny(world), replace(world, rate=1e-3), replace(world, summarizer=worlds.t5)):
        assert worlds.recipe(changed) != worlds.recipe(world)


def test_area_under_the_curve():
    assert worlds.area(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([False, False, True, True])) == 0.75
    assert worlds.area(torch.ones(4), torch.tensor([True, False, True, False])) == 0.5


@pytest.mark.parametrize("name", WORLD_NAMES)
def test_a_world_is_made_once_and_the_default_preset_runs_on_it(name, tmp_path, monkeypatch):
    scripts = {"data_preparation.py": stage_1, "training_ppo.py": training_ppo, "evaluate_ppo.py": evaluate_ppo}
    kinds = dict(zip(scripts, (config.Preparation, config.PPOTraining, config.EvaluationStage)))

    def here(script, flags):
        assert cli.run(kinds[script], scripts[script].main, flags) == 0
        return 1.0

    monkeypatch.setattr(stages, "stage", here)
    monkeypatch.setitem(unseen.SETTINGS, "short", ("--ppo.updates", "2", "--ppo.value-warmup", "0"))
    arguments = unseen.parse(
        ["--examples", "4", "--samples", "1", "--worlds", str(tmp_path / "w"), "--checkpoints", str(tmp_path / "runs")]
    )
    world, threads = worlds.tiny(worlds.WORLDS[name]), torch.get_num_threads()
    made = worlds.make(world, arguments.worlds)
    assert 0 < made["measured"]["auc_judge"] <= 1 and made["measured"]["entropy"] > 1
    assert f"| parameters, summarizer | {made['parameters']['summarizer']:,} |" in worlds.table([made])
    run = unseen.Run(world, "short", 3)
    found = run.measure(arguments)
    torch.set_num_threads(threads)
    assert found["n"] == 4 and found["approx_kl_first"] >= 0 and 0 < found["rougeL_before"] < 1
    preset = config.preset(config.PPOTraining, "flan-t5").ppo
    assert run.key(arguments, "r")["ppo"] == asdict(replace(preset, updates=2, value_warmup=0))
    monkeypatch.setattr(worlds.build, "publish", None)  # nothing is made again
    assert worlds.make(world, arguments.worlds) == made


def test_unseen_table_has_a_line_a_seed_and_their_median(tmp_path, monkeypatch):
    measured_now = []

    def measured(run, _):
        measured_now.append(run.seed)
        return dict.fromkeys((name for _, name, _ in unseen.COLUMNS), 0.1 * (run.seed + 1)) | {"n": 4}

    monkeypatch.setattr(unseen.Run, "measure", measured)
    world = worlds.WORLDS["service"]
    monkeypatch.setattr(worlds, "make", lambda world, _: {"name": world.name, "recipe": "r"})
    monkeypatch.setattr(worlds, "table", lambda made: "")
    output = tmp_path / "out.json"
    for seeds in (["0", "1"], ["0", "1", "6"]):
        unseen.main(["--only", "service", "--seeds", *seeds, "--jobs", "2", "--output", str(output)])
    assert sorted(measured_now) == [0, 1, 6], "a run that exists is not repeated"
    flags = unseen.Run(world, "default", 1).flags(unseen.parse([]))
    assert not [flag for flag in flags["training_ppo.py"] if flag.startswith("--ppo.")], "the preset's own settings"
    table = unseen.table(json.loads(output.read_text()))
    assert "| service, default | 0 | +10% |" in table
    assert "| service, default | median (range) | +20% (+10% to +70%) |" in table


def test_data_preparation_keeps_every_generated_dialogue(capsys):
    found = data_preparation.measure_here(60, 1, turns=3, words=6)
    assert found["kept"] == found["dialogues"] == 60
    assert found["cpu_seconds"] > 0 and found["prepared_mb"] > found["source_mb"] > 0
    assert found["peak_heap_mb"] is None or found["peak_heap_mb"] >= found["heap_before_mb"] > 0
    assert capsys.readouterr().out == "", "the figures alone go to standard output"


def test_data_preparation_tells_what_one_more_dialogue_costs(tmp_path, monkeypatch, capsys):
    def measured(count, workers, arguments):
        return {"dialogues": count, "workers": workers, "seconds": 1.0, "cpu_seconds": 2.0 + count * 3e-4,
                "peak_heap_mb": 100 + count / 2**14, "peak_rss_mb": 200.0, "prepared_mb": 5.0}  # fmt: skip

    monkeypatch.setattr(data_preparation, "measure", measured)
    output = tmp_path / "out.json"
    data_preparation.main(["--sizes", "1000", "9000", "--workers", "2", "--million", "--output", str(output)])
    shown = capsys.readouterr().out
    assert "| 1,000,000 | 2 | 1.0 | 302.0 |" in shown
    assert "workers 2, 1,000 to 9,000: 300 CPU us a dialogue, 64 bytes of heap" in shown
    assert [run["dialogues"] for run in json.loads(output.read_text())["runs"]] == [1000, 9000, 1_000_000]


TINY = "--shape tiny --batch-size 4 --minibatch-size 2 --prompt-tokens 4 20 --new-tokens 4 --repeats 2".split()


def test_two_processes_measure_their_phases_and_exchange_the_gradients():
    arguments = scaling.parse(TINY)
    run = scaling.Run("weak", 2)
    found = scaling.start_run(run, arguments)
    seconds = found["seconds"]
    assert all(seconds[phase] > 0 for phase in scaling.PHASES)
    assert seconds["total"] >= sum(seconds[phase] for phase in scaling.PHASES) * 0.999  # the slower one's; means
    gradients = scaling.planned_update(run, arguments, 1.0, 1.0, 1.0).gradient_bytes
    made = policy.make_policy(ppo_step.make_t5(ppo_step.SHAPES["tiny"]), config.PPO())
    trained = sum(parameter.numel() for parameter in policy.trainable(made).values())
    assert gradients == 4 * trained * 4 * 2  # bytes, passes, minibatches of 4 out of 8
    statistics = 8 * 4 * 4 * 4 + 8 * 3 * 8 + 8 * 2 * 4  # four figures a token; lengths; scores, twice
    statistics += 8 * 11 * 4  # of each minibatch
    gradients -= 8 * 4 * (ppo_step.SHAPES["tiny"].d + 1)  # the value head, which has none here
    assert gradients < found["bytes_sent"] <= gradients + statistics
    assert found["peak_rss_mb"] > 100 and found["planned_peak_mb"] > 100 and found["link_gb_per_second"] > 0


def test_processes_are_compared_with_one_within_a_repeat(monkeypatch, capsys):
    totals = {"strong 1": [4.0, 8.0], "strong 2": [2.0, 8.0], "weak 2": [4.0, 10.0]}

    def start(run, _):
        total = totals[run.name].pop(0)
        return {
            "run": run.name,
            "seconds": dict.fromkeys(scaling.PHASES, total / 5) | {"total": total},
            "cpu_seconds": 1.0,
            "bytes_sent": 10,
            "peak_rss_mb": 300.0,
            "planned_peak_mb": 310.0,
            "link_gb_per_second": None if run.processes == 1 else 2.0,
        }

    monkeypatch.setattr(scaling, "start_run", start)
    found = scaling.measure(scaling.parse(TINY))
    summary = found["summary"]
    assert summary["strong 2"]["times_as_fast"] == 1.5 and summary["strong 2"]["times_as_fast_range"] == [1.0, 2.0]
    assert summary["weak 2"]["times_as_fast"] == pytest.approx(1.8)  # twice the prompts in as long, then in 10 / 8
    assert summary["strong 1"]["planned_seconds"] == pytest.approx(6.0, rel=0.01)  # the median that it was given
    planned = [summary[name]["planned_seconds"] for name in ("strong 2", "weak 2")]
    assert planned == pytest.approx([3.0, 6.0], rel=0.05)
    assert json.loads(json.dumps(found)) and "| strong 2 |" in scaling.table(found)
    assert "repeat 2 of 2: weak 2: 10.0 s" in capsys.readouterr().err


def test_one_process_comes_first(capsys):
    with pytest.raises(SystemExit):
        scaling.parse(["--processes", "2", "4"])
    assert "must begin with 1" in capsys.readouterr().err


def test_simulated_evaluations_have_the_truth_that_they_are_held_against(monkeypatch):
    monkeypatch.setattr(evaluations, "ENDLESS", (20, 10_000))
    evaluations.truth.cache_clear()
    for world, mean in (("bimodal", 0.1), ("heavy tails", 0.1), ("rare spikes", 0.09)):
        assert evaluations.truth(world, 0.0)["mean"] == pytest.approx(0, abs=0.01)
        assert evaluations.truth(world, 0.1)["mean"] == pytest.approx(mean, abs=0.015), world
    assert evaluations.bimodal_share() == pytest.approx(0.93, abs=0.03), "the rest is what civil summaries have"
    drawn = list(evaluations.pairs("bimodal", 7, 2, 0.5, 300, seed=1))
    assert len(drawn) == 300 and all(side.shape == (7, 2) for pair in drawn for side in pair)


def test_simulated_evaluations_fill_their_tables(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["evaluations.py", "--evaluations", "4"])
    for name, value in (("SIZES", (30,)), ("ENDLESS", (2, 1000)), ("NAMED", 2)):
        monkeypatch.setattr(evaluations, name, value)
    evaluations.truth.cache_clear()
    evaluations.main()
    shown = capsys.readouterr().out
    rows = [line for line in shown.splitlines() if line.startswith("| ")]
    assert len(rows) == 5 + 3 * 2 * 4 + 10 + 3 * 2 + 10 + 2
    assert evaluations.rate([True] * 95 + [False] * 5) == "0.95 ± 0.02" and evaluations.rate([True] * 19) == "too few"
    assert evaluations.rate([True] * 23) == "all 23"
    assert evaluations.rate([True, False] * 2000) == "0.500"


def test_step_size_reports_what_every_update_moved(tmp_path, capsys):
    output = tmp_path / "steps.json"
    step_size.main(
        "--shapes tiny --rates 1e-6 1.0 --updates 3 --new-tokens 6 --dtype float32 --output".split() + [str(output)]
    )
    runs = json.loads(output.read_text())
    assert [run["rate"] for run in runs] == [1e-6, 1.0] and all(len(run["updates"]) == 3 for run in runs)
    assert all(0 < entry["kl"] < 2 * entry["wanted"] for run in runs for entry in run["updates"])
    assert capsys.readouterr().out.count("| tiny |") == 2


def test_neighbours_compute_until_the_measurement_is_over():
    me = psutil.Process()
    others = me.children()  # such as what keeps account of shared memory
    with busy.neighbours(2):
        there = [child for child in me.children() if child not in others]
        assert len(there) == 2 and all(child.is_running() for child in there)
    assert not any(child.is_running() for child in there)


def test_busy_and_quiet_are_compared_with_the_better_choice():
    seconds = {(0, "auto"): 2.0, (0, "1"): 4.0, (0, "all"): 2.0, (1, "auto"): 4.4, (1, "1"): 4.0, (1, "all"): 9.0}
    runs = [
        {"neighbours": count, "threads": name, "seconds": {"an iteration": value * turn}}
        for (count, name), value in seconds.items()
        for turn in (0.9, 1.0, 3.0)
    ]
    lines = busy.table(runs).splitlines()
    assert lines[2:] == [
        "| an iteration | 0 | 2.0 | 4.0 | 2.0 | 1.00 |",
        "| an iteration | 1 | 4.4 | 4.0 | 9.0 | 1.10 |",
    ]


def test_an_evaluation_is_timed_against_itself(capsys):
    arguments = evaluation_time.parse(
        ["--shape", "tiny", "--dialogues", "3", "--new-tokens", "4", "--samples", "2", "--threads", "1"]
        + ["--repeats", "1", "--against", str(evaluation_time.ROOT)]
    )
    runs = evaluation_time.measure(arguments)
    (before,), (now,) = runs["before"], runs["now"]
    assert before["said"] == now["said"] and len(now["said"]) == 3 * (2 + 2 + 1 + 2 + 2 + 1)
    for found in (before, now):
        for clock in ("seconds", "cpu_seconds"):
            assert found[clock]["total"] == pytest.approx(sum(found[clock][part] for part in evaluation_time.PARTS))
    text = evaluation_time.table(runs)
    assert "30 of 30 summaries are the same" in text and text.count("\n| ") == len(evaluation_time.PARTS) + 2
