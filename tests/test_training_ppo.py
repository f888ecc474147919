"""Stage 2 as its users run it: what it writes, exact resume, refusals, and the adapter it leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM

import config
import data_preparation
import training_ppo
from detox.model import adapters, loading, policy
from detox.ppo import batches, checkpoint, checkpoint_record, trackers, update
from detox.stage import artifacts, checkpoint_folders, cli, parsing
from detox.stage.files import sha256
from tests import tiny
from tests.faults.world import tree

ROOT = Path(__file__).parent.parent
FLAGS = (
    "--model.base t5 --model.adapter lora --reward.model reward --rollout.max-new-tokens 8 --dtype float32 "
    "--ppo.batch-size 6 --ppo.minibatch-size 3 --ppo.ppo-epochs 2 --ppo.learning-rate 1e-2 --ppo.advantages gae "
    "--ppo.value-warmup 6 --ppo.lora-r 4 --device cpu --save.every 2 --ppo.updates 6 --ppo.score-normalize "
    "--ppo.kl-control adaptive"
).split()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with tiny models and a prepared dataset, as `checkpoints/r/prepared`."""
    root = tiny.start_world(tmp_path_factory.mktemp("world"), train=20, validation=4, test=4)
    with tiny.inside(root):
        argv = ["--model.base", "t5", "--data.dataset", "dialogues", "--run", "r"]
        assert cli.run(config.Preparation, data_preparation.main, argv) == 0
    return root


@pytest.fixture
def place(world, tmp_path, monkeypatch):
    shutil.copytree(world, tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    return tmp_path / "w"


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """A run of six updates that nothing interrupted."""
    place = tmp_path_factory.mktemp("whole") / "w"
    shutil.copytree(world, place)
    with tiny.inside(place):
        assert train() == 0
    return place / "checkpoints" / "r" / "ppo"


def train(*more):
    flags = list(FLAGS)
    switches = [flag for flag in more if flag == "--overwrite"]
    more = [flag for flag in more if flag != "--overwrite"]
    for name, value in zip(more[::2], more[1::2]):
        flags = flags[: flags.index(name)] + flags[flags.index(name) + 2 :] if name in flags else flags
        flags += [name, value]
    run = [] if "--run" in flags else ["--run", "r"]
    return cli.run(config.PPOTraining, training_ppo.main, [*run, *flags, *switches])


def metrics(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not k.startswith(("time/", "memory/"))} for line in lines]


def step_size(checkpoint):
    return json.loads((checkpoint / "state.json").read_text())["step_size"]


def assert_same(folder, whole, step="step-0006"):
    """Bit by bit: policy, value head, optimizer, what the next step and advantages come from, and metrics."""
    assert metrics(folder) == metrics(whole)
    assert step_size(folder / step) == step_size(whole / step)
    critic = ["critic"] if (whole / step / "critic.safetensors").exists() else []
    for name in ("adapter/adapter_model", "ppo_lora", "value_head", "optimizer", *critic):
        mine, its = (load_file(f / step / f"{name}.safetensors") for f in (folder, whole))
        assert mine.keys() == its.keys()
        assert all(torch.equal(mine[key], its[key]) for key in mine), name


def test_what_a_run_leaves(whole):
    assert sorted(path.name for path in whole.iterdir()) == [
        "metrics.jsonl",
        "step-0002",
        "step-0004",
        "step-0006",
        "training.png",
    ]
    assert sorted(str(p.relative_to(whole / "step-0006")) for p in (whole / "step-0006").rglob("*") if p.is_file()) == [
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "critic.safetensors",
        "manifest.json",
        "optimizer.safetensors",
        "ppo_lora.safetensors",
        "rng.safetensors",
        "state.json",
        "value_head.safetensors",
    ]
    lines = metrics(whole)
    assert [line["update"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[0]["objective/ref_kl"] == pytest.approx(0, abs=1e-6)
    assert lines[0]["ppo/ratio_first"] == pytest.approx(1, abs=1e-5)
    wanted = (
        "objective/score_mean objective/score_std objective/ref_kl objective/kl_coef ppo/policy/approx_kl "
        "ppo/policy/clip_fraction ppo/policy/entropy ppo/loss/policy ppo/loss/value ppo/val/explained_variance "
        "ppo/ratio_first tokens/response_mean"
    ).split()
    assert all(isinstance(line[name], float) for line in lines for name in wanted)
    manifest = json.loads((whole / "step-0006" / "manifest.json").read_text())
    assert manifest["counts"] == {"updates": 6} and manifest["inputs"]["prepared"]["path"] == "../../prepared"


def test_the_adapter_is_an_ordinary_one_and_is_the_policy(whole, world):
    """Plain transformers and peft load it, and it says what the trained policy says."""
    base = AutoModelForSeq2SeqLM.from_pretrained(world / "t5")
    plain = PeftModel.from_pretrained(base, whole / "step-0006" / "adapter").eval()

    settings = checkpoint_record.settings_of(
        json.loads((whole / "step-0006" / "manifest.json").read_text()), config.PPOTraining
    )
    start, _ = policy.load_start(config.Model(base=str(world / "t5"), adapter=str(world / "lora")))
    trained = policy.make_policy(start, settings.ppo)
    saved = load_file(whole / "step-0006" / "ppo_lora.safetensors")
    missing = trained.load_state_dict(saved, strict=False).missing_keys
    assert not set(saved) & set(missing)
    for key, parameter in policy.trainable(trained).items():
        if key in saved:
            parameter.data.copy_(saved[key])
    ids, decoder = torch.randint(4, 60, (3, 11)), torch.randint(4, 60, (3, 7))
    with torch.no_grad():
        expected = trained.pretrained_model(input_ids=ids, decoder_input_ids=decoder).logits
        found = plain(input_ids=ids, decoder_input_ids=decoder).logits
        with trained.pretrained_model.disable_adapter():
            reference = trained.pretrained_model(input_ids=ids, decoder_input_ids=decoder).logits
        supervised = adapters.load_adapter(loading.load_summarizer(str(world / "t5")), str(world / "lora"))
        its = supervised(input_ids=ids, decoder_input_ids=decoder).logits
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(reference, its, atol=2e-5, rtol=1e-4)
    assert float((found - reference).abs().max()) > 1e-2, "training changed it"


def test_a_run_that_goes_on_is_the_run_that_never_stopped(place, whole):
    assert train("--ppo.schedule", "constant", "--ppo.updates", "4") == 0
    shutil.rmtree(place / "checkpoints/r/ppo")
    assert train() == 0  # and so is a second run of the same settings
    assert_same(place / "checkpoints/r/ppo", whole)


@pytest.mark.parametrize("engine", ["hf", "packed"])
@pytest.mark.parametrize(
    "estimator",
    [
        "batch",
        "batch --ppo.samples-per-dialogue 2 --ppo.schedule constant",
        "rloo --ppo.samples-per-dialogue 2",
        "grpo --ppo.samples-per-dialogue 3",
        "dr-grpo --ppo.samples-per-dialogue 6",
        "gae --ppo.value-refit 0",
    ],
)
def test_every_estimator_goes_on_as_if_it_had_never_stopped(place, monkeypatch, estimator, engine):
    ppo = place / "checkpoints/r/ppo"
    flags = ("--ppo.value-warmup", "0", "--ppo.updates", "4", "--engine", engine, "--ppo.advantages")

    def dies(*_):
        raise KeyboardInterrupt

    assert train(*flags, *estimator.split()) == 0
    ppo.rename(place / "expected")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_folders, "prune", dies)  # right after a checkpoint is written
        assert train(*flags, *estimator.split()) != 0
    assert checkpoint_folders.numbers(ppo) == [2]
    assert train(*flags, *estimator.split()) == 0
    assert_same(ppo, place / "expected", "step-0004")
    lines = metrics(ppo)
    assert [line["objective/scored_summaries"] for line in lines] == [6, 12, 18, 24]
    assert all((line["ppo/val/explained_variance"] is None) == ("gae" not in estimator) for line in lines)


@pytest.mark.parametrize("moment", ["rollout", "update", "save"])
def test_a_crash_anywhere_loses_nothing(place, whole, monkeypatch, moment):
    folder = place / "checkpoints/r/ppo"
    where, name = {
        "rollout": (batches, "roll_out"),
        "update": (update, "minibatch"),
        "save": (checkpoint, "save_adapter"),
    }[moment]
    function, calls = getattr(where, name), []
    limit = {"rollout": 6, "update": 15, "save": 2}[moment]

    def dies(*arguments, **options):
        calls.append(1)
        if len(calls) == limit:
            raise RuntimeError("power cut")
        return function(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(where, name, dies)
        with pytest.raises(RuntimeError, match="power cut"):
            train()
    assert all((folder / n / "manifest.json").exists() for n in os.listdir(folder) if n.startswith("step-"))
    assert 0 < checkpoint_folders.numbers(folder)[-1] < 6
    assert train() == 0
    assert_same(folder, whole)


def test_sigkill_and_sigterm(place, whole):
    """A real process, killed outright, then asked to stop, then left alone."""
    folder = place / "checkpoints/r/ppo"
    command = [sys.executable, str(ROOT / "training_ppo.py"), "--run", "r", *FLAGS]

    def start():
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def wait_for(process, updates):
        while process.poll() is None and not ((folder / "metrics.jsonl").exists() and len(metrics(folder)) >= updates):
            time.sleep(0.01)

    process = start()
    wait_for(process, 3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    process = start()
    wait_for(process, 4)
    process.send_signal(signal.SIGTERM)
    output, error = process.communicate()
    if process.returncode:  # it may have been done already
        assert process.returncode == 143
        assert error.strip().splitlines()[-1].startswith("interrupted:"), error
        assert "interrupted: finishing this update and saving it; once more stops at once\n" in error
    process = start()
    output, error = process.communicate()
    assert process.returncode == 0, error
    assert_same(folder, whole)


def test_a_run_that_has_gone_aside_comes_back_for_its_own_manifest(place, whole, capsys):
    """Killed while it began anew by the settings of its own last checkpoint, it is begun anew by the same command."""
    folder = place / "checkpoints/r/ppo"
    shutil.copytree(whole, folder)
    folder.rename(folder.with_name(".ppo.4000000-0123abcd.before"))
    manifest = f"{folder}/step-0006/manifest.json"
    assert cli.run(config.PPOTraining, training_ppo.main, ["--config", manifest]) == 0
    assert "step-0006 is complete" in capsys.readouterr().out
    assert_same(folder, whole)


def test_a_checkpoint_under_another_ones_name_is_refused(place, whole, capsys):
    folder = place / "checkpoints/r/ppo"
    shutil.copytree(whole, folder)
    shutil.copytree(folder / "step-0004", folder / "step-0012")
    before = tree(folder)
    assert train("--ppo.updates", "14") == 2
    assert "step-0012: was step-0004 when it was saved; rename it so, or move it away" in capsys.readouterr().err
    assert tree(folder) == before


@pytest.mark.parametrize("stop, word", [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated")])
def test_a_second_signal_tells_what_is_saved(place, monkeypatch, capsys, stop, word):
    """Of a run that replaces another one, the command that goes on is not the one that was typed."""
    roll_out, calls = batches.roll_out, []

    def stopped(*arguments):
        calls.append(1)
        if len(calls) == 4:  # the first is of the warm-up
            os.kill(os.getpid(), stop)
            os.kill(os.getpid(), stop)
        return roll_out(*arguments)

    monkeypatch.setattr(batches, "roll_out", stopped)
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background has it ignored
    try:
        assert train("--overwrite") == 128 + stop
    finally:
        signal.signal(signal.SIGINT, usual)
    assert checkpoint_folders.numbers(place / "checkpoints/r/ppo") == [2]
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"{word}: 2 updates are saved; go on with: python training_ppo.py --run r ")
    assert "--overwrite" not in line


def test_an_interruption_tells_the_whole_command(capsys):
    settings = parsing.parse(config.PPOTraining, "--preset demo --run r --ppo.kl-coef 1 --overwrite".split())
    for updates, more in ((0, " --overwrite"), (2, "")):
        parts = SimpleNamespace(trainer=SimpleNamespace(updates_done=updates))
        assert training_ppo.finish(settings, parts, Path("checkpoints/r/ppo"), signal.SIGINT) == 130
        line = f"with: python training_ppo.py --preset demo --run r --ppo.kl-coef 1.0{more}\n"
        assert capsys.readouterr().err.endswith(line)


def test_an_interruption_of_the_last_update_tells_what_comes_next(capsys):
    settings = parsing.parse(config.PPOTraining, "--preset demo --run r".split())
    classifier = SimpleNamespace(classifier=SimpleNamespace(model=SimpleNamespace(config=None)))
    parts = SimpleNamespace(trainer=SimpleNamespace(updates_done=20), reward=SimpleNamespace(classifier=classifier))
    assert training_ppo.finish(settings, parts, Path("checkpoints/r/ppo"), signal.SIGINT) == 130
    told = "interrupted: all 20 updates are done and saved; next: python evaluate_ppo.py --preset demo --run r\n"
    assert capsys.readouterr().err == told


def test_other_settings_are_refused_by_name(place, capsys):
    assert train("--ppo.updates", "2") == 0
    before = sorted((place / "checkpoints/r/ppo").rglob("*"))
    for flag, value in (("--ppo.kl-coef", "0.3"), ("--seed", "4"), ("--rollout.max-new-tokens", "9")):
        assert train(flag, value) == 2
        error = capsys.readouterr().err.strip()
        assert "\n" not in error and flag in error and value in error
    assert sorted((place / "checkpoints/r/ppo").rglob("*")) == before
    assert train("--ppo.updates", "2") == 0
    shown = capsys.readouterr().out
    for words in ("is complete", "note: steps get smaller", "next: python evaluate_ppo.py --run r"):
        assert words in shown
    assert train("--ppo.updates", "3") == 0, "more updates may follow"


def test_prepared_data_that_changed_is_refused(place, capsys):
    assert train("--ppo.updates", "2") == 0
    argv = ["--model.base", "t5", "--data.dataset", "dialogues", "--run", "r", "--overwrite"]
    assert cli.run(config.Preparation, data_preparation.main, argv) == 0
    assert capsys.readouterr().out.endswith("trained on the same data\nnext: python evaluate_ppo.py --run r\n")
    assert train("--ppo.updates", "3") == 0, "the same data, prepared later"
    assert cli.run(config.Preparation, data_preparation.main, [*argv, "--data.prompt", "In short: {dialogue}"]) == 0
    capsys.readouterr()
    assert train("--ppo.updates", "4") == 2
    error = capsys.readouterr().err
    command = "python data_preparation.py --run r --overwrite --model.base t5 --data.dataset dialogues"
    assert "checkpoints/r/prepared has changed since" in error and f"make it as it was ({command})" in error


def test_a_renamed_or_copied_run_goes_on_from_its_own_adapter(place, capsys):
    prepared = {"prepared": Path("checkpoints/r/prepared")}
    with artifacts.publish(
        Path("checkpoints/r/lora"), stage="training_lora", settings=config.LoraTraining(), inputs=prepared
    ) as draft:
        shutil.copytree("lora", draft.path, dirs_exist_ok=True)
    assert train("--model.adapter", "auto", "--ppo.updates", "1") == 0
    Path("checkpoints/r").rename("checkpoints/renamed")
    assert train("--run", "renamed", "--model.adapter", "auto", "--ppo.updates", "2") == 0
    shutil.copytree("checkpoints/renamed", "kept/copy")
    capsys.readouterr()
    prepared = {"prepared": Path("kept/copy/prepared")}
    words = ["--config", "kept/copy/ppo/step-0002/manifest.json", "--ppo.updates", "3"]
    assert cli.run(config.PPOTraining, training_ppo.main, words) == 0
    assert "goes on    from kept/copy/ppo/step-0002" in capsys.readouterr().out
    assert checkpoint_folders.numbers(Path("checkpoints/renamed/ppo")) == [1, 2]
    weights = Path("kept/copy/lora/adapter_model.safetensors")
    with artifacts.publish(
        Path("kept/copy/lora"), stage="training_lora", settings=config.LoraTraining(), overwrite=True, inputs=prepared
    ) as draft:
        shutil.copytree("lora", draft.path, dirs_exist_ok=True)
        tensors = load_file(draft.path / weights.name)
        save_file({name: tensor + 1 for name, tensor in tensors.items()}, draft.path / weights.name)
    assert cli.run(config.PPOTraining, training_ppo.main, [*words[:-1], "4"]) == 2
    assert "kept/copy/lora has changed since kept/copy/ppo/step-0003 was made" in capsys.readouterr().err


def test_checkpoints_are_pruned_but_never_the_best_or_the_last(place):
    assert train("--save.every", "1", "--save.keep", "2") == 0
    folder = place / "checkpoints/r/ppo"
    kept = checkpoint_folders.numbers(folder)
    best = json.loads((folder / "step-0006/state.json").read_text())["progress"]["best"]
    assert 6 in kept and best in kept and len(kept) <= 3


def test_a_reward_model_that_gives_nan_stops_with_the_last_checkpoint_whole(place, monkeypatch, capsys):
    from detox.scoring.reward import RewardModel

    score, calls = RewardModel.score, []

    def broken(self, summaries):
        calls.append(1)
        scores = score(self, summaries)
        return scores * float("nan") if len(calls) > 4 else scores

    monkeypatch.setattr(RewardModel, "score", broken)
    assert train() == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "3 updates in a row were skipped" in error
    folder = place / "checkpoints/r/ppo"
    for number in checkpoint_folders.numbers(folder):
        artifacts.read_manifest(folder / checkpoint_folders.name(number), "training_ppo")
    assert [("skipped" in line) for line in metrics(folder)] == [False] * 3 + [True] * 3


def test_two_processes_do_not_write_to_one_run(place, capsys):
    from detox.stage import run_lock

    (place / "checkpoints/r").mkdir(exist_ok=True)
    with run_lock.hold(place / "checkpoints/r"):
        assert train() == 2
    assert "in use" in capsys.readouterr().err


def test_without_prepared_data(place, capsys):
    shutil.rmtree(place / "checkpoints")
    assert train() == 2
    assert "data_preparation.py" in capsys.readouterr().err
    assert not (place / "checkpoints").exists()


def test_metrics_are_reported_to_tensorboard(place):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert train("--report-to", "tensorboard", "--ppo.updates", "2") == 0
    assert train("--report-to", "tensorboard", "--ppo.updates", "3") == 0, "and goes on there"
    folder = place / "checkpoints/r/ppo"
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    for name in ("objective/score_mean", "objective/ref_kl", "ppo/policy/entropy"):
        told = [(event.step, event.value) for event in events.Scalars(name)]
        assert told == [(line["update"], pytest.approx(line[name], rel=1e-6)) for line in metrics(folder)]


@pytest.mark.parametrize("left", [False, True])
def test_a_tracker_that_is_not_installed_is_told(place, capsys, monkeypatch, left):
    if left:  # the folder that it makes where it runs is none of Python's packages
        (place / "wandb").mkdir()
        monkeypatch.syspath_prepend(place)
    else:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert train("--report-to", "wandb") == 2
    assert "--report-to=wandb: needs `pip install wandb`" in capsys.readouterr().err
    assert not (place / "checkpoints/r/ppo").exists()


class Unwilling:
    """A tracker that fails in one of its calls."""

    def __init__(self, fails):
        self.fails = fails

    def __call__(self, *arguments, **options):
        return self

    def __getattr__(self, name):
        def call(*arguments, **options):
            if name == self.fails:
                raise RuntimeError("No API key configured.\nUse `wandb login`")

        return call


@pytest.mark.parametrize("fails", ["start", "store_init_configuration"])
def test_a_tracker_that_cannot_start_costs_nothing_of_the_run_before(whole, place, monkeypatch, capsys, fails):
    shutil.copytree(whole, place / "checkpoints/r/ppo")
    before = tree(place)
    monkeypatch.setattr(trackers, "check", lambda settings: None)
    monkeypatch.setattr(trackers, "WandBTracker", Unwilling(fails))
    assert train("--report-to", "wandb", "--overwrite") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "--report-to=wandb: can't start" in error and "wandb login" in error and "leave it out" in error
    assert tree(place) == before


def test_a_file_where_the_events_of_a_tracker_belong(place, monkeypatch, capsys):
    assert train("--ppo.updates", "1") == 0
    (place / "checkpoints/r/ppo/tensorboard").write_text("mine")
    before = tree(place)
    assert train("--report-to", "tensorboard") == 2
    assert "--report-to=tensorboard: can't start" in capsys.readouterr().err
    assert tree(place) == before


@pytest.mark.parametrize("fails", ["log", "finish"])
def test_a_tracker_that_fails_later_stops_no_run(place, monkeypatch, capsys, fails):
    monkeypatch.setattr(trackers, "check", lambda settings: None)
    monkeypatch.setattr(trackers, "WandBTracker", Unwilling(fails))
    assert train("--report-to", "wandb", "--ppo.updates", "2") == 0
    assert "warning: the tracker fails (RuntimeError: No API key" in capsys.readouterr().err
    assert len(metrics(place / "checkpoints/r/ppo")) == 2


def test_overwrite_keeps_the_old_run_until_the_new_one_has_a_checkpoint(whole, place, monkeypatch):
    shutil.copytree(whole, place / "checkpoints/r/ppo")
    (place / "checkpoints/r/ppo/notes.txt").write_text("mine")
    before = tree(place)
    monkeypatch.setattr(batches, "roll_out", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train("--overwrite")
    assert tree(place) == before
    monkeypatch.undo()
    monkeypatch.chdir(place)
    assert train("--ppo.updates", "1", "--overwrite") == 0
    names = sorted(path.name for path in (place / "checkpoints/r/ppo").iterdir())
    assert names == ["metrics.jsonl", "notes.txt", "step-0001", "training.png"]
    assert sorted(path.name for path in (place / "checkpoints/r").iterdir()) == ["ppo", "prepared"]


def test_a_run_from_pickles_records_them(place, capsys):
    """The supervised checkpoint of the public recipe: an adapter as a pickle, with twelve settings."""
    shutil.rmtree("lora")
    tiny.pickled_lora(Path("lora"), Path("t5"))
    tiny.pickled(Path("reward"))
    assert train("--ppo.updates", "1") == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert len(notes) <= 2 and all("is a pickle" in note for note in notes), "each is told once a process"
    manifest = json.loads((place / "checkpoints/r/ppo/step-0001/manifest.json").read_text())
    assert (
        manifest["notes"]["pickles"]
        | {f"{name}.bin": sha256(place / f"{name}.bin") for name in ("lora/adapter_model", "reward/pytorch_model")}
        == manifest["notes"]["pickles"]
    )
    torch.save({"a": torch.zeros(1)}, "reward/pytorch_model.bin")
    assert train("--ppo.updates", "2") == 2
    assert "reward has other weights" in capsys.readouterr().err


def test_a_reward_model_of_one_logit_trains(place, capsys):
    tiny.classifier(Path("one"), ["LABEL_0"], problem_type="regression")
    assert train("--ppo.updates", "1", "--reward.model", "one") == 0
    assert "logit of 'LABEL_0' by one" in capsys.readouterr().out
