"""Stage 3 as its users run it: what it writes, what it computes once, comparisons, refusals, foreign text."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import config
import data_preparation
import evaluate_ppo
import training_ppo
from detox.evaluation import (
    checkpoints,
    curve,
    examples,
    pooling,
    scorers,
    several_checkpoints,
    summaries,
    task,
)
from detox.ppo import checkpoint_record
from detox.stage import artifacts, cli, parsing, run_lock
from detox.stage.manifest import sealed
from tests import tiny
from tests.evaluation.fabricated import check_by_hand

HOSTILE = '<script>window.pwned=1</script><img src=x onerror="window.pwned=1"> & <b>bold</b>'
MODELS = ["--toxicity.model", "reward", "--judge.model", "judge"]
SIZES = (
    "--evaluation.samples 2 --evaluation.best-of 2 --evaluation.max-new-tokens 6 --evaluation.resamples 200 "
    "--evaluation.min-slice 2 --dtype float32 --device cpu"
).split()
TRAIN = (
    "--model.base t5 --model.adapter lora --reward.model reward --rollout.max-new-tokens 6 --dtype float32 "
    "--ppo.batch-size 4 --ppo.minibatch-size 4 --ppo.ppo-epochs 1 --ppo.advantages gae "
    "--ppo.no-value-trust --ppo.value-refit 0 --ppo.whiten-memory 0 "
    "--ppo.schedule linear --ppo.learning-rate 3e-2 --ppo.lora-r 2 --device cpu --save.every 1 --ppo.updates 2"
).split()
WRITTEN = [
    "differences.png",
    "distributions.png",
    "examples.jsonl",
    "intervals.png",
    "manifest.json",
    "report.html",
    "report.md",
    "results.json",
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Tiny models, dialogues (one of them hostile), two runs of two checkpoints that differ by seed."""
    root = tiny.start_world(tmp_path_factory.mktemp("world"), train=8, validation=6, test=8)
    tiny.bert_classifier(root / "judge", seed=1)
    with (root / "dialogues" / "test.csv").open("a", newline="", encoding="utf-8") as file:
        rows = [[f"test_9_{i}", f"#Person1#: {HOSTILE}", "They talk.", HOSTILE] for i in (1, 2, 3)]
        csv.writer(file).writerows(rows)
    with tiny.inside(root):
        argv = ["--model.base", "t5", "--data.dataset", "dialogues", "--run", "r0"]
        assert cli.run(config.Preparation, data_preparation.main, argv) == 0
        shutil.copytree("checkpoints/r0", "checkpoints/r1")
        for seed in "01":
            argv = ["--run", f"r{seed}", "--seed", seed, *TRAIN]
            assert cli.run(config.PPOTraining, training_ppo.main, argv) == 0
    return root


@pytest.fixture
def place(world, tmp_path, monkeypatch):
    shutil.copytree(world, tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    return tmp_path / "w" / "checkpoints"


@pytest.fixture(scope="module")
def done(world, tmp_path_factory):
    """A copy of the world with the last checkpoint of the first run evaluated."""
    root = tmp_path_factory.mktemp("done") / "w"
    shutil.copytree(world, root)
    with tiny.inside(root):
        assert run() == 0
    return root


@pytest.fixture(autouse=True)
def nothing_loaded():
    """Names are of another folder in every test."""
    scorers.load_scorers.cache_clear()


@pytest.fixture
def again(done, tmp_path, monkeypatch):
    """A place in which that evaluation was done before."""
    shutil.copytree(done, tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    return tmp_path / "w" / "checkpoints"


def run(*more):
    names = {flag for flag in more if flag.startswith("--")}
    kept = [part for pair in zip(SIZES[::2], SIZES[1::2], strict=True) if pair[0] not in names for part in pair]
    where = [] if "--run" in names else ["--run", "r0"]
    return cli.run(config.EvaluationStage, evaluate_ppo.main, [*where, *MODELS, *kept, *more])


def refused(capsys, *words):
    """Check that stderr is one line with these words."""
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1 and error[0].startswith("error: "), error
    for word in words:
        assert word in error[0], error[0]


def read(folder):
    return json.loads((folder / "results.json").read_text())


def read_lines(folder):
    return [json.loads(line) for line in (folder / "examples.jsonl").read_text().splitlines()]


def texts_of(folder, side):
    return [[record["summary"] for record in line[side]["samples"]] for line in read_lines(folder)]


def watch(monkeypatch):
    """Return a list that takes the title of every generation."""
    titles, summarize = [], summaries.summarize

    def noted(*arguments, **options):
        titles.append(options["title"])
        return summarize(*arguments, **options)

    monkeypatch.setattr(summaries, "summarize", noted)
    return titles


# --------------------------------------------------------------------------------------------- one checkpoint


def test_what_an_evaluation_leaves(again, capsys, monkeypatch):
    folder = again / "r0" / "evaluation"
    assert sorted(path.name for path in (folder / "step-0002").iterdir()) == WRITTEN
    assert sorted(path.name.partition("-")[0] for path in folder.iterdir()) == ["reference", "step"]
    found, lines = read(folder / "step-0002"), read_lines(folder / "step-0002")
    wanted = "schema_version n samples_per_dialogue seed toxicity independent_judge rouge drift verdict"
    assert {*wanted.split(), "noise_floor"} <= set(found) and found["n"] == len(lines) == 9 and found["split"] == "test"
    for part in (found["toxicity"], found["independent_judge"]):
        assert {"judge", "mean", "std", "p_value"} <= set(part)
        assert all({"before", "after", "reduction", "ci95"} <= set(part[name]) for name in ("mean", "std"))
    assert list(found["baselines"]) == ["reference", "best-of-2 by reward", "bad-word filter", "PPO"]
    assert found["models"]["adapter"] == "lora" and found["models"]["judge"] == "judge"
    check_by_hand(found, lines, min_slice=2)
    manifest = json.loads((folder / "step-0002" / "manifest.json").read_text())
    assert manifest["inputs"]["checkpoint"]["path"] == "../../ppo/step-0002"

    titles = watch(monkeypatch)
    assert run("--power", "0.1", "--evaluation.batch-size", "7") == 0
    shown = capsys.readouterr()
    assert titles == [], "nothing is computed again"
    for word in (
        "Mean toxicity",
        "Std toxicity",
        "Mean toxicity, judge",
        "ROUGE-L",
        "step-0002/report.html",
        "power: ",
    ):
        assert word in shown.out, word
    assert shown.err == "", "no bar where there is no terminal"


def test_the_same_bytes_every_time_whatever_the_batch(done, place):
    assert run("--evaluation.batch-size", "64") == 0
    mine, its = place / "r0/evaluation/step-0002", done / "checkpoints/r0/evaluation/step-0002"
    for name in WRITTEN:
        if name != "manifest.json":
            assert (mine / name).read_bytes() == (its / name).read_bytes(), name
    assert run("--evaluation.batch-size", "2", "--overwrite") == 0
    for side in ("before", "after"):
        assert texts_of(mine, side) == texts_of(its, side)
    found, wanted = read(mine), read(its)
    assert found["toxicity"]["mean"]["after"] == pytest.approx(wanted["toxicity"]["mean"]["after"], abs=1e-5)
    assert found["drift"]["kl_per_summary"] == pytest.approx(wanted["drift"]["kl_per_summary"], abs=1e-4)


def test_two_processes_write_the_same_bytes(world, place, tmp_path, monkeypatch):
    """Under torchrun: data preparation and evaluation as one process does them; the other stage says no, once."""
    prepare = ["--model.base", "t5", "--data.dataset", "dialogues", "--run", "two"]
    commands = [
        ["data_preparation", *prepare],
        ["evaluate_ppo", "--run", "r0", *MODELS, *SIZES, "--evaluation.batch-size", "4"],
        ["evaluate_ppo", "--run", "r0", *MODELS, *SIZES, "--power", "0.1"],
        ["data_preparation", *prepare, "--data.workers", "2", "--overwrite"],
        ["training_lora", "--model.base", "t5", "--run", "two"],
    ]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    root = str(Path(__file__).resolve().parents[1])
    launched = subprocess.run(
        [*launcher, "tests.launched", *map(json.dumps, commands)],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
    )
    assert launched.stdout.count("exit codes [0, 0, 0, 2, 2]") == 2, launched
    assert launched.stdout.count("wrote checkpoints/two/prepared") == 1, launched.stdout
    assert launched.stdout.count("report: ") == 2, "two evaluations, told by one process"
    told = [line for line in launched.stderr.splitlines() if line.startswith("error: ")]
    assert len(told) == 2 and "--data.workers=2" in told[0] and "python training_lora.py --run two" in told[1]

    shutil.copytree(world, tmp_path / "alone")
    monkeypatch.chdir(tmp_path / "alone")
    assert run("--evaluation.batch-size", "4") == 0
    alone = tmp_path / "alone" / "checkpoints" / "r0"
    assert tree(place / "r0" / "evaluation") == tree(alone / "evaluation")
    assert tree(place / "two") == {f"prepared/{name}": content for name, content in tree(alone / "prepared").items()}


def tree(folder):
    """Return the files of a folder with what they hold; of a manifest, what does not tell of time and place."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name in found:
        if name.endswith("manifest.json"):
            manifest = json.loads(found[name])
            found[name] = {key: manifest[key] for key in ("counts", "files", "stage")}
    return found


def test_evaluations_under_other_settings_stand_side_by_side(again, monkeypatch):
    """The last one that was asked for is in the checkpoint's place; an earlier one comes back without any work."""
    titles, folder = watch(monkeypatch), again / "r0/evaluation/step-0002"
    first = {path.name: path.read_bytes() for path in folder.iterdir()}

    def kept():
        return sorted(path.name for path in folder.parent.iterdir() if path.name.startswith("step-0002-"))

    assert run("--evaluation.threshold", "0.4") == 0
    assert len(kept()) == 1 and titles == ["r0/step-0002"], "the reference's summaries are the same"
    assert {path.name: path.read_bytes() for path in (folder.parent / kept()[0]).iterdir()} == first
    assert run("--seed", "5") == 0
    assert read(folder)["seed"] == 5 and len(kept()) == 2
    del titles[:]
    assert run() == 0
    assert titles == [] and {path.name: path.read_bytes() for path in folder.iterdir()} == first
    assert len(kept()) == 2 and not (folder.parent / "step-0002-validation").exists()

    assert run("--overwrite") == 0 and titles, "it replaces that of the same settings"
    assert len(kept()) == 2 and read(folder)["seed"] == 0
    assert run("--seed", "5", "--overwrite") == 0
    assert len(kept()) == 2 and read(folder)["seed"] == 5, "--overwrite loses none of other settings"


def test_an_evaluation_that_fails_leaves_the_one_before_in_its_place(again, monkeypatch, capsys):
    folder = again / "r0/evaluation"
    before = {path.name for path in folder.iterdir()}
    assert run("--judge.label", "rude") == 2
    refused(capsys, "rude")
    assert {path.name for path in folder.iterdir()} == before
    monkeypatch.setattr(summaries, "teacher_force", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run("--seed", "5") == 130
    assert {path.name for path in folder.iterdir()} == before and read(folder / "step-0002")["seed"] == 0


def test_what_was_trained_against_is_no_judge(again, capsys):
    def measured(toxicity, judge):
        flags = f"--run r0 --toxicity.model {toxicity} --judge.model {judge} --judge.label hate".split()
        return cli.run(config.EvaluationStage, evaluate_ppo.main, [*flags, *SIZES])

    assert measured("reward", "reward") == 2
    refused(capsys, "--judge.model=reward: was trained against", "name another one")
    assert measured("reward", "./reward") == 2
    refused(capsys, "was trained against")
    shutil.copytree("reward", "copy")
    assert measured("reward", "copy") == 2
    refused(capsys, "--judge.model=copy: was trained against")


def test_data_that_were_prepared_anew_are_told(again, capsys):
    manifest = again / "r0/prepared/manifest.json"
    assert run("--seed", "5") == 0 and "not what" not in capsys.readouterr().err
    content = json.loads(manifest.read_text())
    content["created_utc"] = "2000-01-01T00:00:00+00:00"
    manifest.write_text(sealed(content))
    assert run("--seed", "5") == 0 and capsys.readouterr().err == "", "the same data, prepared later"
    argv = shlex.split("--run r0 --model.base t5 --data.dataset dialogues --overwrite")
    assert cli.run(config.Preparation, data_preparation.main, [*argv, "--data.prompt", "Sum up: {dialogue}"]) == 0
    capsys.readouterr()
    warning = "WARNING: The run's data are not those of training: the dialogues or the prompt are others than the "
    for words in (["--seed", "5"], ["--seed", "5"]):  # measured, and read from disk
        assert run(*words) == 0
        shown = capsys.readouterr()
        assert "r0/prepared is not what r0/step-0002 was trained on" in shown.err and warning in shown.out
        assert "if that was not meant, make it as it was (python data_preparation.py --run r0" in shown.err
    assert read(again / "r0/evaluation/step-0002")["alarms"][-1]["name"] == "data"
    Path("d.txt").write_text("#Person1#: people talk")
    assert cli.run(config.EvaluationStage, evaluate_ppo.main, ["--run", "r0", *MODELS, "--ask", "d.txt"]) == 0
    shown = capsys.readouterr().err
    assert "is not what r0/step-0002 was trained on" in shown
    assert "note: --ask takes the prompt of checkpoints/r0/prepared: 'Sum up: {dialogue}'\n" in shown
    assert run("--seed", "5", "--export", "out") == 2 and not Path("out").exists()
    line = capsys.readouterr().err
    assert "--export: " in line and "r0/prepared, which has the prompt, is not what r0/step-0002 was trained on" in line
    command = shlex.split(line.partition("make it as it was (python ")[2].partition(")")[0])
    assert cli.run(config.Preparation, data_preparation.main, command[1:]) == 0, "the command that it names"
    assert "from before" not in capsys.readouterr().out
    assert run("--seed", "5") == 0 and capsys.readouterr().err == ""


def test_an_evaluation_of_what_the_checkpoint_was_before_is_kept(again, monkeypatch):
    titles, folder = watch(monkeypatch), again / "r0/evaluation/step-0002"
    first = read(folder)
    argv = ["--run", "r0", "--seed", "3", "--overwrite", *TRAIN]
    assert cli.run(config.PPOTraining, training_ppo.main, argv) == 0
    assert run() == 0 and titles
    (kept,) = folder.parent.glob("step-0002-*")
    assert read(kept) == first and read(folder)["training_seed"] == 3
    assert run("--overwrite") == 0
    assert list(folder.parent.glob("step-0002-*")) == [kept]


def test_where_the_figures_come_from(done):
    folder = done / "checkpoints/r0/evaluation/step-0002"
    found, training = read(folder), read(folder)["training"]
    manifest = json.loads((done / "checkpoints/r0/ppo/step-0002/manifest.json").read_text())
    assert training["updates"] == 2 and training["learning_rate"] == 3e-2 and training["batch_size"] == 4
    assert training["kl_coef"] == manifest["config"]["ppo"]["kl_coef"]
    assert training["trained"] == manifest["created_utc"] and training["advantages"]
    assert (
        training["command"].startswith("python training_ppo.py --run r0 ") and "--ppo.lora-r 2" in training["command"]
    )
    with tiny.inside(done):
        stages = ((config.PPOTraining, training), (config.EvaluationStage, found))
        for stage, of in stages:
            asked = []
            assert cli.run(stage, asked.append, shlex.split(of["command"])[2:]) == 0
            if stage is config.EvaluationStage:
                assert asked[0].evaluation.samples == 2 and asked[0].checkpoint == ("checkpoints/r0/ppo/step-0002",)
            else:
                assert dataclasses.asdict(asked[0])["ppo"] == manifest["config"]["ppo"]
    text = (folder / "report.md").read_text()
    for word in ("learning rate | 0.03", "KL weight", "advantages by", "trained by", "evaluated by", "commit"):
        assert word in text, word


def test_both_models_see_the_same_random_numbers(place):
    """A checkpoint that training has not moved says what the reference says, word for word."""
    argv = list(TRAIN)
    argv[argv.index("--ppo.learning-rate") + 1], argv[-1] = "1e-12", "1"
    assert cli.run(config.PPOTraining, training_ppo.main, ["--run", "r0", "--overwrite", *argv]) == 0
    assert run() == 0
    folder = place / "r0/evaluation/step-0001"
    assert texts_of(folder, "after") == texts_of(folder, "before")
    lines, found = read_lines(folder), read(folder)
    assert any(len(set(row)) > 1 for row in texts_of(folder, "before"))
    assert [r for line in lines for r in line["before"]["noise"]] != [
        r for line in lines for r in line["before"]["samples"]
    ]
    assert found["verdict"] == "not distinguishable" and found["toxicity"]["mean"]["reduction"] == 0
    assert found["drift"]["kl_per_summary"] == pytest.approx(0, abs=1e-4)


def test_the_reference_is_computed_once(again, monkeypatch):
    titles = watch(monkeypatch)
    assert run("--checkpoint", "checkpoints/r0/ppo/step-0001") == 0
    assert titles == ["r0/step-0001"], "the reference's summaries were kept"
    first, second = (read_lines(again / "r0/evaluation" / name) for name in ("step-0001", "step-0002"))
    assert [line["before"] for line in first] == [line["before"] for line in second]
    assert [line["after"] for line in first] != [line["after"] for line in second]
    kept = next((again / "r0/evaluation").glob("reference-*"))
    (kept / "reference.json").write_text("{}")
    shutil.rmtree(again / "r0/evaluation/step-0001")
    assert run("--checkpoint", "checkpoints/r0/ppo/step-0001") == 2
    assert run("--checkpoint", "checkpoints/r0/ppo/step-0001", "--overwrite") == 0
    assert titles[-1] == "starting model"


def test_weights_that_changed_are_another_reference(again, monkeypatch):
    """The names are the same, the contents are not: the judge's marks are part of what is kept."""
    shutil.rmtree("judge")
    tiny.bert_classifier(Path("judge"), seed=7)
    scorers.load_scorers.cache_clear()  # as in a new process
    titles = watch(monkeypatch)
    assert run("--checkpoint", "checkpoints/r0/ppo/step-0001") == 0
    assert titles == ["r0/step-0001", "starting model"]


def test_files_that_changed_under_their_names_make_another_evaluation(again, monkeypatch):
    titles, folder = watch(monkeypatch), again / "r0/evaluation/step-0002"
    first = read(folder)
    shutil.move("judge", "kept")
    tiny.bert_classifier(Path("judge"), seed=7)
    scorers.load_scorers.cache_clear()
    assert run() == 0 and titles
    second = read(folder)
    assert second["independent_judge"]["mean"] != first["independent_judge"]["mean"]
    shutil.rmtree("judge")
    shutil.move("kept", "judge")
    del titles[:]
    assert run() == 0 and read(folder) == first and titles == [], "the first one comes back"
    for words in ("fool", "people"):
        Path("words.txt").write_text(words)
        del titles[:]
        assert run("--evaluation.bad-words", "words.txt") == 0 and titles, words


def test_a_reward_model_that_changed_measures_nothing(again, capsys):
    shutil.rmtree("reward")
    tiny.classifier(Path("reward"), seed=9)
    assert run() == 2
    refused(capsys, "reward: not the model that it was", "ppo/step-0002 was trained with it: put it back as it was")


def test_the_tokenizer_of_a_reward_model_is_a_part_of_it(again, capsys):
    path = Path("reward/tokenizer_config.json")
    path.write_text(path.read_text().replace("{", '{"do_lower_case": true, ', 1))
    assert run() == 2
    refused(capsys, "reward: not the model that it was")
    argv = ["--run", "r0", "--seed", "0", *TRAIN[:-1], "3"]
    assert cli.run(config.PPOTraining, training_ppo.main, argv) == 2
    refused(capsys, "reward has other weights or code than when")


def test_data_that_are_prepared_anew_meanwhile_are_not_taken_for_those_that_were_read(place, capsys, monkeypatch):
    load = task.load_scorers

    def meanwhile(*arguments):
        argv = ["--model.base", "t5", "--data.dataset", "dialogues", "--run", "r0", "--overwrite"]
        assert cli.run(config.Preparation, data_preparation.main, [*argv, "--data.max-examples", "3"]) == 0
        return load(*arguments)

    monkeypatch.setattr(task, "load_scorers", meanwhile)
    assert run() == 2
    assert "r0/prepared was replaced or removed meanwhile; start again" in capsys.readouterr().err
    assert not list(place.glob("r0/evaluation/step-*"))
    monkeypatch.setattr(task, "load_scorers", load)
    summarize = summaries.summarize

    def later(*arguments, **options):
        shutil.rmtree(place / "r0/prepared")
        monkeypatch.setattr(summaries, "summarize", summarize)
        return summarize(*arguments, **options)

    monkeypatch.setattr(summaries, "summarize", later)
    assert run() == 0, "its figures are known to be of what was read"


@pytest.mark.parametrize("gone", [True, False])
def test_a_checkpoint_that_changes_meanwhile_is_not_evaluated(place, capsys, monkeypatch, gone):
    summarize = summaries.summarize
    step = place / "r0/ppo/step-0002"

    def meanwhile(*arguments, **options):
        shutil.rmtree(step)
        if not gone:
            shutil.copytree(step.with_name("step-0001"), step)
        monkeypatch.setattr(summaries, "summarize", summarize)
        return summarize(*arguments, **options)

    monkeypatch.setattr(summaries, "summarize", meanwhile)
    assert run("--checkpoint", "step-0001", "step-0002") == 2
    assert "ppo/step-0002 was replaced or removed meanwhile; start again" in capsys.readouterr().err
    assert [path.name for path in (place / "r0/evaluation").glob("step-*")] == ["step-0001"]


def test_a_checkpoint_of_another_run_is_told(again, capsys):
    shutil.copytree(again / "r0/ppo/step-0002", "step-0002")
    assert run("--run", "r1", "--checkpoint", "./step-0002") == 0
    assert "note: step-0002 was trained as run r0; here it is one of r1\n" in capsys.readouterr().err


def test_hub_models_are_those_of_the_commits_that_training_started_from():
    model = config.Model(base="owner/base", adapter="owner/adapter", adapter_revision="main")
    training = dataclasses.replace(config.preset(config.PPOTraining, "flan-t5"), model=model)
    commits = {"owner/base": "a" * 40, "owner/adapter": "b" * 40, "reward": "c" * 40}
    pinned = checkpoints._pinned(training, commits).model
    assert (pinned.revision, pinned.adapter_revision) == ("a" * 40, "b" * 40)
    local = checkpoints._pinned(training, {"owner/base": "a" * 64, "owner/adapter": "b" * 64}).model
    assert local == model, "folders have no commits"


class Shown(HTMLParser):
    """The text that a page shows, and its elements."""

    def __init__(self, page):
        super().__init__()
        self.text, self.tags, self.inside = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.inside.append(tag)
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"script", "style"} & set(self.inside):
            self.text.append(data)


def test_html_in_a_dialogue_is_text_in_the_report(done):
    page = Shown((done / "checkpoints/r0/evaluation/step-0002/report.html").read_text())
    assert HOSTILE in "".join(page.text)
    assert "img" not in page.tags and page.tags.count("script") == 1


# -------------------------------------------------------------------------------------------- several at once


def test_checkpoints_side_by_side(again, capsys, monkeypatch):
    titles = watch(monkeypatch)
    names = [f"checkpoints/r0/ppo/step-000{i}" for i in (1, 2)]
    assert run("--checkpoint", *names) == 0
    assert titles == ["r0/step-0001"]
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("sqrt KL", "starting model ", "step-0001 ", "step-0002 "))
    (folder,) = (again / "r0/evaluation").glob("comparison-*")
    found = read(folder)
    points = found["checkpoints"]
    assert [point["name"] for point in points] == ["reference", "step-0001", "step-0002"]
    for point in points[1:]:
        own = read(again / "r0/evaluation" / point["name"])
        assert point["sqrt_kl"] ** 2 == pytest.approx(max(own["drift"]["kl_per_summary"], 0))
        assert point["judge_mean"] == own["independent_judge"]["mean"]["after"]
        assert (point["score_mean"], point["rougeL"]) == (
            own["reward"]["after"],
            own["rouge"]["rougeL"]["after"],
        )
    assert found["overoptimization"]["names"][0] == "reference"
    assert found["overoptimization"]["sentence"] in shown
    assert (folder / "checkpoints.png").exists() and "Checkpoints side by side" in (folder / "report.md").read_text()
    assert run("--checkpoint", *names) == 0
    assert capsys.readouterr().out == re.sub(r".*: \d+ of \d+ in .*\n", "", shown), "nothing is computed again"
    assert "different dialogues" not in shown

    (folder / "report.html").unlink()
    assert run("--checkpoint", *names) == 2
    assert f"{folder.name}: report.html is missing; move it away and type" in capsys.readouterr().err
    folder.rename(again / "moved")
    assert run("--checkpoint", *names) == 0 and (folder / "report.html").exists()

    results, fewer = examples.read_results, {"step-0001": {"n": 5}}
    monkeypatch.setattr(examples, "read_results", lambda place: results(place) | fewer.get(place.name, {}))
    assert run("--checkpoint", *names) == 0
    assert "These checkpoints were evaluated on different dialogues" in capsys.readouterr().out
    reports = [path.read_text() for path in (again / "r0/evaluation").glob("comparison-*/report.md")]
    assert sorted("evaluated on different dialogues" in report for report in reports) == [False, True]


def test_select_looks_at_validation_only(place, capsys, monkeypatch):
    assert run("--select", "0.01") == 0
    shown = capsys.readouterr().out
    kinds = {re.sub(r"[0-9a-f]{8,}", "KEY", path.name) for path in (place / "r0/evaluation").iterdir()}
    assert kinds == {
        "reference-KEY",
        "step-0001-validation",
        "step-0002-validation",
        "comparison-validation-KEY",
    }
    (folder,) = (place / "r0/evaluation").glob("comparison-validation-*")
    found = read(folder)
    assert found["split"] == "validation" and found["n"] == 6 and found["selection_floor"] == 0.01
    judged = {p["name"]: p["judge_mean"] for p in found["checkpoints"][1:]}
    best = min(judged, key=judged.get)
    assert found["selected"] == f"r0/{best}" and found["checkpoint"] == best
    assert f"selected: checkpoints/r0/ppo/{best}" in shown
    assert "note: selected by 6 validation dialogues, fewer than 30: chance may have decided\n" in shown
    assert "\nstarting model " in shown and "\nreference" not in shown
    _, script, *words = shlex.split(shown.partition("next: ")[2])
    with_these = parsing.parse(config.EvaluationStage, ["--run", "r0", *MODELS, *SIZES])
    chosen = dataclasses.replace(with_these, checkpoint=(f"checkpoints/r0/ppo/{best}",))
    assert script == "evaluate_ppo.py" and parsing.parse(config.EvaluationStage, words) == chosen

    monkeypatch.setattr(curve, "select", lambda named, floor: None)
    assert run("--select", "1") == 2
    refused(capsys, "--select=1", "no checkpoint keeps", "the most is ", ", by r0/step-")


def test_runs_that_differ_by_seed_are_pooled(again, capsys, monkeypatch):
    titles = watch(monkeypatch)
    names = [f"checkpoints/r{seed}/ppo/step-0002" for seed in (0, 1)]
    assert run("--checkpoint", *names) == 0
    assert titles == ["r1/step-0002"], "the other run's reference is as good"
    shown = capsys.readouterr().out
    assert "Change over runs" in shown
    assert (again / "r1/evaluation/step-0002/results.json").exists()
    (folder,) = (again / "r0/evaluation").glob("comparison-*")
    found = read(folder)
    each = [read(again / f"r{seed}/evaluation/step-0002")["toxicity"]["mean"]["reduction"] for seed in (0, 1)]
    assert found["pooled"]["mean"]["each"] == pytest.approx(each)
    assert found["pooled"]["runs"] == 2 and found["pooled"]["names"] == ["r0/step-0002", "r1/step-0002"]
    assert found["samples_per_dialogue"] == 2 and "checkpoints" not in found
    page = (folder / "report.md").read_text()
    assert "Several runs" in page and "with 2 sampled summaries each, in each of 2 runs" in page
    assert "Most toxic of 2 samples" in page
    assert all(name in found["command"] for name in names) and found["training_seed"] == "0, 1"
    assert found["training"]["updates"] == 2 and not {"command", "trained"} & found["training"].keys()
    cases = checkpoints.find(config.EvaluationStage(run="r0", checkpoint=tuple(names)), config.PPOTraining)
    of_last = {"baseline_note": "PPO does not beat it", "bert_score": {}}
    monkeypatch.setattr(examples, "read_results", lambda folder: read(folder) | of_last)
    monkeypatch.setattr(pooling, "pool", lambda *given: ({"alarms": []}, []))
    settings = parsing.parse(config.EvaluationStage, ["--run", "r0", *MODELS, *SIZES])
    pooled, _ = several_checkpoints.compare(settings, cases)
    assert not of_last.keys() & pooled.keys() and pooled["models"] == found["models"], "of one run alone"
    monkeypatch.undo()
    monkeypatch.chdir(again.parent)
    assert run("--checkpoint", names[0], "checkpoints/r1/ppo/step-0001") == 0
    shown = capsys.readouterr().out
    assert "r1/step-0001" in shown and "Change over runs" not in shown, "other updates are not another seed"


def test_runs_that_differ_in_more_than_the_seed_are_not_pooled(again, capsys):
    names = tuple(str(again / f"r{seed}/ppo/step-0002") for seed in (0, 1))
    settings = config.EvaluationStage(run="r0", checkpoint=names)
    first, second = checkpoints.find(settings, config.PPOTraining)
    assert checkpoints.differ_by_seed([first, second])
    for other in (
        dataclasses.replace(second, weights={**second.weights, "reward": "0" * 64}),
        dataclasses.replace(second, data={"content_sha256": "0" * 64}),
    ):
        assert not checkpoints.differ_by_seed([first, other])
    other = dataclasses.replace(second, weights={**second.weights, "lora": "0" * 64})
    assert checkpoints._start(first) == checkpoints._start(second) != checkpoints._start(other)

    def prepare(name):
        prompt = ["--data.prompt", "Sum up: {dialogue}", "--overwrite"]
        argv = ["--model.base", "t5", "--data.dataset", "dialogues", "--run", name, *prompt]
        assert cli.run(config.Preparation, data_preparation.main, argv) == 0

    prepare("r1")
    assert not checkpoints.differ_by_seed(checkpoints.find(settings, config.PPOTraining)), "other prompts now"
    prepare("r0")
    capsys.readouterr()
    assert run("--checkpoint", *names) == 0
    assert "Change over runs" in capsys.readouterr().out
    (folder,) = (again / "r0/evaluation").glob("comparison-*")
    assert read(folder)["alarms"][-1]["name"] == "data", "what holds of each holds of all"


def test_a_step_is_found_by_its_name_in_the_run(place, monkeypatch):
    settings = parsing.parse(config.EvaluationStage, ["--run", "r0", "--checkpoint", "step-0001"])
    assert [case.checkpoint for case in checkpoints.find(settings, config.PPOTraining)] == [
        Path("checkpoints/r0/ppo/step-0001")
    ]
    monkeypatch.chdir("checkpoints/r1/ppo")
    other = dataclasses.replace(settings, checkpoints="../../../checkpoints", checkpoint=("step-0002",))
    (case,) = checkpoints.find(other, config.PPOTraining)
    assert case.checkpoint == Path("step-0002") and case.run.name == "r1", "what is here comes first"


# --------------------------------------------------------------------------------------------------- refusals


def test_a_checkpoint_that_is_missing_or_truncated(place, capsys):
    assert run("--checkpoint", "checkpoints/r0/ppo/step-0009") == 2
    refused(capsys, "step-0009", "no such folder")
    assert run("--run", "nothing") == 2
    refused(capsys, "holds no checkpoint", "training_ppo.py")
    assert run("--checkpoint", "checkpoints/r0/ppo/step-0001", "checkpoints/r0/ppo/step-0001") == 2
    refused(capsys, "--checkpoint", "once")
    assert run("--checkpoint", "checkpoints/r0/ppo/step-0001/adapter") == 2
    refused(capsys, "--checkpoint", "part of a checkpoint; name checkpoints/r0/ppo/step-0001")
    weights = place / "r0/ppo/step-0002/adapter/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert run() == 2
    refused(capsys, "adapter_model.safetensors", "bytes instead of")
    assert not (place / "r0" / "evaluation").exists() and not (place / "nothing").exists()


def test_an_evaluation_without_manifest_is_to_be_moved(again, capsys):
    """`--overwrite` would not replace it, nor what is no folder."""
    target = again / "r0/evaluation/step-0002"
    (target / "manifest.json").unlink()
    assert run() == 2
    refused(capsys, "has no manifest.json; move it away and run python evaluate_ppo.py")
    shutil.rmtree(target)
    target.write_text("mine")
    assert run() == 2
    refused(capsys, "has no manifest.json; move it away and run python evaluate_ppo.py")
    assert target.read_text() == "mine"


def rebase(folder, base):
    """Publish a checkpoint anew, as one of another base model."""
    settings = checkpoint_record.settings_of(json.loads((folder / "manifest.json").read_text()), config.PPOTraining)
    settings = dataclasses.replace(settings, model=dataclasses.replace(settings.model, base=base))
    with artifacts.publish(folder, stage="training_ppo", settings=settings, overwrite=True) as draft:
        shutil.copytree(folder, draft.path, dirs_exist_ok=True)
        (draft.path / "manifest.json").unlink()
        draft.counts["updates"] = 2


def test_a_checkpoint_of_another_model(place, capsys):
    folder = place / "r0/ppo/step-0002"
    tiny.t5(Path("wide"), d_model=64)
    rebase(folder, "wide")
    assert run() == 2
    refused(capsys, "step-0002", "wide: not the model that it was")
    assert run("--checkpoint", "checkpoints/r0/ppo/step-0001", "checkpoints/r0/ppo/step-0002") == 2
    refused(capsys, "--checkpoint", "different models")
    tiny.bart(Path("bart"))
    rebase(folder, "bart")
    assert run() == 2
    refused(capsys, "step-0002", "bart: not the model that it was")
    assert not (place / "r0" / "evaluation").exists()


def test_wrong_settings_are_told_before_any_summary(place, capsys, monkeypatch):
    titles = watch(monkeypatch)
    for flags, words in (
        (["--toxicity.label", "rude"], ["rude", "nothate"]),
        (["--judge.label", "rude"], ["rude", "severe_toxic"]),
        (["--evaluation.bad-words", "none.txt"], ["--evaluation.bad-words=none.txt"]),
        (["--select", "1.5"], ["--select=1.5"]),
    ):
        assert run(*flags) == 2
        refused(capsys, *words)
    assert titles == []


def test_an_evaluation_in_use_is_left_alone(place, capsys):
    with run_lock.hold(place / "r0" / "evaluation"):
        assert run() == 2
    refused(capsys, "in use")


def test_lack_of_memory_is_one_line(place, capsys, monkeypatch):
    def full(*_, **__):
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")

    monkeypatch.setattr(summaries, "summarize", full)
    assert run("--evaluation.batch-size", "7") == 2
    refused(capsys, "out of memory", "--evaluation.batch-size=7")
    assert not list(place.glob("r0/evaluation/step-*"))
