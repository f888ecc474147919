"""Whatever stands in a file that a stage reads: it is read, or refused in one printable line."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import config
import data_preparation
import training_ppo
from detox.data.sources import locate
from detox.data.splits import SPLITS
from detox.model import loading, tokenizers
from detox.ppo import checkpoint, checkpoint_record, resume
from detox.ppo.metrics_log import MetricsLog
from detox.stage import artifacts, cli, parsing
from detox.stage.errors import UserError
from detox.stage.parallel import Processes
from tests import tiny
from tests.faults.world import FLAGS

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
COLUMNS = ("id", "dialogue", "summary", "topic", "fname", "summary1", "")
RECORD = st.dictionaries(st.sampled_from(COLUMNS), JSON | st.text(st.characters()), max_size=5)


def in_one_line(error: UserError) -> None:
    assert str(error) and str(error).isprintable() and ";" in str(error), error


# ----------------------------------------------------------------------------------------------- dataset readers


def read_or_refuse(path: Path) -> None:
    try:
        found = [row for split in SPLITS for row in locate(config.Data(dataset=str(path)), 0).rows(split)]
    except UserError as error:
        in_one_line(error)
        assert path.name in str(error)
    else:
        assert all(row.id and "\0" not in row.dialogue + row.topic + "".join(row.summaries) for row in found)


@given(records=st.lists(RECORD | JSON, max_size=4), suffix=st.sampled_from(["json", "jsonl"]))
def test_json_of_any_shape(tmp_path_factory, records, suffix):
    path = tmp_path_factory.getbasetemp() / f"fuzz.{suffix}"
    lines = "\n".join(json.dumps(record) for record in records)
    path.write_text(json.dumps(records) if suffix == "json" else lines)
    read_or_refuse(path)


@given(
    rows=st.lists(st.lists(st.text(st.characters(exclude_categories=("Cs",))), max_size=5), max_size=4),
    header=st.permutations(["id", "dialogue", "summary", "topic"]),
    ends=st.sampled_from(["\n", "\r\n", "\r"]),
    mark=st.booleans(),
)
def test_csv_of_any_shape(tmp_path_factory, rows, header, ends, mark):
    path = tmp_path_factory.getbasetemp() / "fuzz.csv"
    text = ends.join(",".join(row) for row in [header, *rows])
    path.write_bytes(b"\xef\xbb\xbf" * mark + text.encode())
    read_or_refuse(path)


@given(position=st.integers(0, 10_000), byte=st.integers(0, 255), keep=st.integers(0, 10_000))
def test_damaged_parquet(parquet, position, byte, keep):
    path, content = parquet
    damaged = bytearray(content)
    damaged[position % len(content)] = byte
    path.write_bytes(damaged[: max(keep, 4) if keep % 2 else None])
    read_or_refuse(path)


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    from datasets import Dataset

    path = tmp_path_factory.mktemp("parquet") / "x.parquet"
    columns = {"id": ["1", "2"], "dialogue": ["a b", "c d"], "summary": ["a", "c"], "topic": ["t", "u"]}
    Dataset.from_dict(columns).to_parquet(str(path))
    return path, path.read_bytes()


# ------------------------------------------------------------------------------ what the stages hand to each other


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run with one checkpoint; and its trainer, into which checkpoints are read."""
    root = tmp_path_factory.mktemp("fuzz") / "w"
    tiny.t5(root / "t5", d_model=16, layers=1)
    tiny.classifier(root / "reward")
    tiny.dialogsum(root / "dialogues", train=8, validation=3, test=3)
    with tiny.inside(root):
        flags = {
            "data_preparation": FLAGS["data_preparation"].split(),
            "training_ppo": FLAGS["training_ppo"].split(),
        }
        assert cli.run(config.Preparation, data_preparation.main, ["--run", "r", *flags["data_preparation"]]) == 0
        argv = ["--run", "r", *flags["training_ppo"][:-2], "--ppo.updates", "1"]
        assert cli.run(config.PPOTraining, training_ppo.main, argv) == 0
        wanted = parsing.parse(config.PPOTraining, argv)
        inputs, wanted = training_ppo.find_inputs(wanted, Path("checkpoints/r"))
        trainer = training_ppo.build(wanted, inputs, Processes()).trainer
        yield root / "checkpoints/r/ppo/step-0001", trainer


def restore_or_refuse(place) -> None:
    folder, trainer = place
    try:
        assert isinstance(checkpoint.restore(folder, trainer), dict)
    except UserError as error:
        in_one_line(error)
        assert str(folder) in str(error)


@given(content=st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_state(place, content):
    path = place[0] / "state.json"
    before = path.read_bytes()
    try:
        path.write_bytes(content)
        restore_or_refuse(place)
    finally:
        path.write_bytes(before)


STATE = (
    "updates_done",
    "skipped_in_a_row",
    "rollout_logprobs_serve",
    "rollout_size",
    "microbatch_size",
    "kl_controller",
    "score_moments",
    "python_rng",
    "progress",
    "weights",
)


@given(key=st.sampled_from(STATE), value=JSON)
def test_any_value_in_the_state(place, key, value):
    change_state(place, **{key: value})


@given(weights=JSON | st.dictionaries(st.text(), st.text(min_size=1), min_size=1))
def test_any_weights_in_the_state(place, weights):
    path = place[0] / "state.json"
    before = path.read_bytes()
    try:
        path.write_text(json.dumps(json.loads(before) | {"weights": weights}))
        assert checkpoint_record.read_weights(place[0]) == weights
    except UserError as error:
        in_one_line(error)
        assert str(place[0]) in str(error)
    finally:
        path.write_bytes(before)


def change_state(place, **changes: object) -> None:
    path = place[0] / "state.json"
    before = path.read_bytes()
    try:
        path.write_text(json.dumps(json.loads(before) | changes))
        restore_or_refuse(place)
    finally:
        path.write_bytes(before)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    name=st.sampled_from(["ppo_lora", "value_head", "optimizer", "rng"]),
    drop=st.integers(0, 50),
    rename=st.text(max_size=8),
    cut=st.booleans(),
)
def test_other_tensors(place, name, drop, rename, cut):
    path = place[0] / f"{name}.safetensors"
    before = path.read_bytes()
    tensors = load_file(path)
    key = sorted(tensors)[drop % len(tensors)]
    value = tensors.pop(key)
    if rename:
        tensors[rename] = value.flatten()[:1].clone() if cut else value
    try:
        save_file(tensors, path)
        restore_or_refuse(place)
    finally:
        path.write_bytes(before)


@given(changes=st.dictionaries(st.sampled_from(["ppo", "model", "save", "seed", "x", "reward"]), JSON, max_size=3))
def test_any_config_in_a_checkpoint_manifest(place, changes):
    manifest = artifacts.read_manifest(place[0], checkpoint_record.STAGE)
    try:
        checkpoint_record.settings_of({**manifest, "config": manifest["config"] | changes}, config.PPOTraining)
    except UserError as error:
        in_one_line(error)


@given(
    key=st.sampled_from(["config", "inputs", "counts"]),
    value=st.dictionaries(st.text(max_size=9), JSON) | JSON,
)
def test_any_manifest_of_a_checkpoint(place, key, value):
    path = place[0] / "manifest.json"
    before = path.read_bytes()
    wanted = checkpoint_record.settings_of(json.loads(before), config.PPOTraining)
    try:
        path.write_text(json.dumps(json.loads(before) | {key: value}))
        resume.check(place[0], wanted, {"prepared": place[0].parent.parent / "prepared"}, {})
    except UserError as error:
        in_one_line(error)
    finally:
        path.write_bytes(before)


@given(position=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_no_flipped_bit_of_a_manifest_passes(place, position, bit):
    path = place[0] / "manifest.json"
    before = path.read_bytes()
    flipped = bytearray(before)
    flipped[position % len(before)] ^= 1 << bit
    try:
        path.write_bytes(flipped)
        assert checkpoint_record.read_manifest(place[0]) == json.loads(before), "white space at most"
    except UserError as error:
        in_one_line(error)
    finally:
        path.write_bytes(before)


@settings(max_examples=40)
@given(content=st.binary(max_size=80) | JSON.map(lambda value: json.dumps(value).encode()))
@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json"])
def test_any_settings_of_a_model(tmp_path_factory, name, content):
    folder = tmp_path_factory.getbasetemp() / "model"
    if not folder.exists():
        tiny.t5(folder, d_model=16, layers=1)
    path = folder / name
    before = path.read_bytes()
    try:
        path.write_bytes(content)
        tokenizers.load_tokenizer(str(folder))
        loading.load_summarizer(str(folder))
    except UserError as error:
        in_one_line(error)
    finally:
        path.write_bytes(before)


# ------------------------------------------------------------------------------------- the command line, the metrics


def flags(settings: object, prefix: str = "--") -> list[str]:
    found = []
    for field in dataclasses.fields(settings):
        value, name = getattr(settings, field.name), prefix + field.name.replace("_", "-")
        found += flags(value, f"{name}.") if dataclasses.is_dataclass(value) else [name]
    return found


STAGES = (config.Preparation, config.LoraTraining, config.PPOTraining, config.EvaluationStage)
FLAG = st.sampled_from([(stage, flag) for stage in STAGES for flag in flags(config.preset(stage, "demo"))])
VALUE = st.text(st.characters(exclude_categories=("Cs",))) | st.integers().map(str) | st.floats().map(str)


@settings(max_examples=60)
@given(flag=FLAG, value=VALUE | st.sampled_from(["", "None", "none", "--", "-1", "1e400", "demo", "0x1", "True"]))
def test_any_value_of_any_flag(flag, value):
    stage, name = flag
    try:
        parsing.parse(stage, ["--preset", "demo", name, value] if name != "--preset" else [name, value]).validate()
    except UserError as error:
        assert str(error) and str(error).isprintable(), error
        assert name in str(error) or repr(value)[1:-1] in str(error), error


@settings(max_examples=40)
@given(stage=st.sampled_from(STAGES), words=st.lists(VALUE, min_size=1, max_size=3))
def test_any_words_on_the_command_line(stage, words):
    try:
        parsing.parse(stage, words)
    except UserError as error:
        assert str(error) and str(error).isprintable(), error


ENTRY = st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.floats() | st.text(), max_size=5)


@given(before=st.lists(ENTRY, max_size=3), after=st.lists(ENTRY, max_size=3))
def test_metrics_are_strict_json_one_object_a_line(tmp_path_factory, before, after):
    """What is not finite has no place in JSON; whatever a name or a text holds stays on its line."""
    path = tmp_path_factory.getbasetemp() / "metrics.jsonl"
    kept = MetricsLog(path)
    for entry in before:
        kept.append(entry)
    log = MetricsLog(path, json.loads(json.dumps(kept.lines)))
    for entry in after:
        log.append(entry)
    lines = path.read_bytes().decode("ascii").split("\n")
    assert lines.pop() == ""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    found = [json.loads(line, parse_constant=refuse) for line in lines]
    assert found == [
        {key: None if value in (math.inf, -math.inf) or value != value else value for key, value in entry.items()}
        for entry in before + after
    ]
