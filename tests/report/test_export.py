"""A checkpoint as a plain transformers model: what it says, what its card says, how it reaches the hub; and asking."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import loopback_hub
import pytest
import torch
import yaml
from huggingface_hub import constants
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

import config
import data_preparation
import evaluate_ppo
import training_ppo
from detox.data.fingerprint import tokenizer_fingerprint
from detox.data.prepared import load_prepared
from detox.evaluation import checkpoints, examples
from detox.model import adapters, hugging_face, loading, tokenizers
from detox.model.hub import problem
from detox.report import ask, export, familiarity, plain_model
from detox.stage import artifacts, cli
from detox.stage.errors import UserError
from detox.stage.figures import fall_bounds
from tests import tiny
from tests.faults.world import tree
from tests.test_evaluate_ppo import MODELS, SIZES, TRAIN, refused

STEP = Path("checkpoints/r/ppo/step-0002")
FILES = {"README.md", "config.json", "generation_config.json", "manifest.json", "model.safetensors", "tokenizer.json"}
FILES |= {"tokenizer_config.json", "special_tokens_map.json"}


def unscaled(folder: Path) -> Path:
    """Write a T5 v1.1 as transformers 5 makes them anew: the embedding is its head, and outputs are not scaled."""
    file = tiny.t5(folder, tied=True) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tie_word_embeddings": False}))
    tensors = load_file(folder / "model.safetensors")
    tensors["shared.weight"] *= 32**-0.5  # else the logits would be so large that it says one word to everything
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


BASES = {
    "t5": tiny.t5,  # as Flan-T5: a head of its own
    "tied": lambda folder: tiny.t5(folder, tied=True, gated=False),
    "unscaled": unscaled,
    "bart": tiny.bart,
}
PROMPT = 'Sum "up":\\n\\n{dialogue}\\nSo: '


def stage(name: str, main, *flags: str) -> int:
    return cli.run(name, main, [*flags])


def make(root: Path, base: str) -> None:
    """Make models, dialogues and a run of two updates in `root`."""
    BASES[base](root / "t5")
    targets = ("q_proj", "v_proj") if base == "bart" else ("q", "v")
    tiny.lora(root / "lora", root / "t5", targets=targets)
    tiny.classifier(root / "reward")
    tiny.bert_classifier(root / "judge", seed=1)
    tiny.dialogsum(root / "dialogues", train=8, validation=4, test=6)
    with tiny.inside(root):
        flags = "--run r --model.base t5 --data.dataset dialogues --data.max-query-tokens 120".split()
        assert stage(config.Preparation, data_preparation.main, *flags, "--data.prompt", PROMPT) == 0
        engine = ["--engine", "hf"] if base == "bart" else []
        assert stage(config.PPOTraining, training_ppo.main, "--run", "r", *TRAIN, *engine) == 0


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    """Return the root of a base's world, made when first asked for, with the checkpoint evaluated and exported."""
    made: dict[str, Path] = {}

    def world(base: str) -> Path:
        if base not in made:
            root = tmp_path_factory.mktemp(base) / "w"
            make(root, base)
            with tiny.inside(root):
                assert run("--export", "out/model") == 0
            made[base] = root
        return made[base]

    return world


@pytest.fixture
def place(worlds, tmp_path, monkeypatch):
    shutil.copytree(worlds("t5"), tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    return tmp_path / "w"


def run(*more: str) -> int:
    return stage(config.EvaluationStage, evaluate_ppo.main, "--run", "r", *MODELS, *SIZES, *more)


@pytest.mark.parametrize(
    ("folder", "says"),
    [
        ("checkpoints/r/ppo/step-0000", "checkpoints/r/ppo is where a stage of the run writes"),
        ("checkpoints/r/lora", "checkpoints/r/lora is where a stage of the run writes"),
        ("checkpoints/r/evaluation/step-0009", "checkpoints/r/evaluation is where a stage of the run writes"),
        ("file/x", "file is no folder that can be written"),
        ("x" * 230, "a name of more than 200 bytes"),
    ],
)
def test_a_place_that_cannot_take_it_is_refused_before_anything_is_done(place, capsys, folder, says):
    Path("file").touch()
    assert run("--export", folder) == 2
    refused(capsys, f"--export={folder}", says)


def find() -> checkpoints.Case:
    return checkpoints.find(config.EvaluationStage(run="r"), config.PPOTraining)[0]


# ------------------------------------------------------------------------------------------------ the model


@pytest.mark.parametrize("base", BASES)
def test_plain_transformers_says_what_base_and_adapter_say(worlds, monkeypatch, base):
    root = worlds(base)
    monkeypatch.chdir(root)
    case = find()
    model, report = AutoModelForSeq2SeqLM.from_pretrained("out/model", output_loading_info=True)
    tokenizer = AutoTokenizer.from_pretrained("out/model")
    assert not any(report.values()) and {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    adapted = adapters.load_adapter(loading.load_summarizer("t5"), str(case.checkpoint / "adapter"))
    pair = hugging_face.HuggingFaceEngine(adapted)
    split = load_prepared(case.run / "prepared")["test"]
    said = set()
    for dialogue, query, ids in zip(split["dialogue"], split["query"], split["input_ids"], strict=True):
        inputs = tokenizer(model.config.prompt_template.replace("{dialogue}", dialogue), return_tensors="pt")
        assert inputs["input_ids"][0].tolist() == ids and query.startswith('Sum "up":\n\n')
        mine = model.generate(**inputs)[0, 1:].tolist()
        its = pair.generate(pair.encode([torch.tensor(ids)]), 6).responses[0].tolist()
        assert mine == its
        said.add(tuple(mine))
    assert len(said) > 1, "or the test could not tell models apart"


@pytest.mark.parametrize("base", BASES)
def test_the_head_is_what_it_was_and_said_to_be(worlds, base):
    folder = worlds(base) / "out/model"
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    head, embedding = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    described = json.loads((folder / "config.json").read_text())
    assert torch.equal(head, embedding) == (base != "t5")
    assert described["tie_word_embeddings"] == (base in ("tied", "bart"))
    assert described.get("scale_decoder_outputs") == {"tied": True, "bart": None}.get(base, False)
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert ("lm_head.weight" in file.keys()) == (base in ("t5", "unscaled"))  # noqa: SIM118


def test_habits_of_the_base_are_not_inherited(place):
    """BART's checkpoints keep beams, penalties and a prefix in config.json; none of it was measured."""
    file = Path("t5/config.json")
    habits = {"num_beams": 4, "no_repeat_ngram_size": 3, "min_length": 5, "auto_map": {"AutoModel": "code.Model"}}
    habits |= {"task_specific_params": {"summarization": {"prefix": "summarize: "}}, "prefix": "x"}
    file.write_text(json.dumps(json.loads(file.read_text()) | habits))
    assert run("--export", "again") == 0
    described = json.loads(Path("again/config.json").read_text())
    assert not habits.keys() & described.keys() and described["d_model"] == 32
    generation = GenerationConfig.from_pretrained("again")
    assert (generation.max_new_tokens, generation.do_sample, generation.num_beams) == (6, False, 1)
    assert (generation.decoder_start_token_id, generation.eos_token_id, generation.pad_token_id) == (0, 1, 0)
    assert generation.no_repeat_ngram_size in (None, 0) and generation.min_length in (None, 0)


def test_the_tokenizer_is_the_bases(worlds):
    root = worlds("t5")
    one, other = (AutoTokenizer.from_pretrained(root / name) for name in ("t5", "out/model"))
    assert tokenizer_fingerprint(one) == tokenizer_fingerprint(other)
    for name in ("tokenizer.json", "special_tokens_map.json"):
        assert (root / "t5" / name).read_bytes() == (root / "out/model" / name).read_bytes()


def test_a_tokenizer_of_transformers_5_gets_a_name_that_all_versions_know(place):
    file = Path("t5/tokenizer_config.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer_class": "TokenizersBackend"}))
    assert run("--export", "again") == 0
    assert json.loads(Path("again/tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    tokenizers = (AutoTokenizer.from_pretrained(name) for name in ("t5", "again"))
    assert len({tokenizer_fingerprint(tokenizer) for tokenizer in tokenizers}) == 1


def test_what_transformers_would_load_otherwise_is_not_published(place, capsys, monkeypatch):
    save = plain_model.save

    def damaged(model, folder, *rest):
        save(model, folder, *rest)
        with torch.no_grad():
            model.get_output_embeddings().weight[0, 0] += 1

    monkeypatch.setattr(plain_model, "save", damaged)
    assert run("--export", "again") == 2
    refused(capsys, "lm_head.weight", "adapter instead")
    assert not Path("again").exists() and not list(Path().glob(".again*"))


# -------------------------------------------------------------------------------------------------- the card


def test_the_card(worlds):
    folder = worlds("t5") / "out/model"
    assert {path.name for path in folder.iterdir()} == FILES
    card = (folder / "README.md").read_text()
    _, front, text = card.split("---\n", 2)
    front = yaml.safe_load(front)
    assert front["library_name"] == "transformers" and front["pipeline_tag"] == "summarization"
    assert front["metrics"] == ["toxicity", "rouge"] and "base_model" not in front, "a folder is no name on the hub"
    found = json.loads((worlds("t5") / "checkpoints/r/evaluation/step-0002/results.json").read_text())
    (entry,) = front["model-index"]
    values = [metric["value"] for metric in entry["results"][0]["metrics"]]
    mean, judged = (found[part]["mean"] for part in ("toxicity", "independent_judge"))
    assert values == pytest.approx([mean["after"], judged["after"], found["rouge"]["rougeL"]["after"]], abs=1e-6)
    for number in (mean["before"], mean["after"], judged["after"]):
        assert f"{number:.4f}" in text
    assert mean["ci95"] is None or fall_bounds(mean["ci95"]) in text
    for words in (
        "over 6 dialogues with 2 sampled summaries each",
        "## Limits",
        "test split of dialogues",
        "supervised LoRA lora",
        "logit of 'nothate' by reward",
        "| seed | 0 |",
        "| updates | 2 of 4 summaries, 1 passes over each |",
        '"learning_rate": 0.03',
        json.dumps('Sum "up":\n\n{dialogue}\nSo: '),
        found["verdict_rule"][:40],
    ):
        assert words in text, words
    for alarm in found["alarms"]:
        assert alarm["sentence"][:30] in text
    assert "its grammar" not in text
    assert str(worlds("t5")) not in card and "checkpoints/" not in card, "nothing of this machine's folders"


def test_the_cards_own_example_runs(worlds, tmp_path):
    shutil.copytree(worlds("t5") / "out/model", tmp_path / "model")
    code = re.search(r"```python\n(.*?)```", (tmp_path / "model/README.md").read_text(), re.S)[1]
    code += "print(output[0].tolist())\n"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    dialogue = re.search(r'dialogue = "(.*)"', code)[1].replace("\\n", "\n")
    ids = AutoTokenizer.from_pretrained(tmp_path / "model")('Sum "up":\n\n' + dialogue + "\nSo: ")["input_ids"]
    adapted = adapters.load_adapter(
        loading.load_summarizer(str(worlds("t5") / "t5")), str(worlds("t5") / STEP / "adapter")
    )
    pair = hugging_face.HuggingFaceEngine(adapted)
    said = pair.generate(pair.encode([torch.tensor(ids)]), 6).responses[0].tolist()
    assert done.stdout.splitlines()[-1] == str([0, *said])


def test_names_on_the_hub_are_told_to_it():
    for name, known in (
        ("google/flan-t5-base", True),
        ("t5-small", True),
        ("demo:base", False),
        ("tests", False),
        ("/home/me/model", False),
        ("../model", False),
        ("a/b/c", False),
    ):
        assert export.model_card._on_hub(name) is known, name


def test_hostile_names_stay_text(place):
    """What a user or a dataset is called can't become a heading, a link or another key of the front matter."""
    prepared = json.loads(Path("checkpoints/r/prepared/manifest.json").read_text())
    hostile = "x\n---\nlicense: mit\n# Big [click](http://evil) <script>alert(1)</script>\x1b[2J"
    prepared["config"]["data"] |= {"dataset": hostile, "prompt": "```\n</details>{dialogue}"}
    found = examples.read_results(find().target)
    card = export.model_card.text(config.EvaluationStage(run="r", export="x"), find(), found, prepared)
    front = yaml.safe_load(card.split("---\n", 2)[1])
    assert "license" not in front and front["model-index"][0]["results"][0]["dataset"]["name"] == hostile
    body = card.split("\n---\n\n# Dialogue", 1)[1]
    assert (
        "\x1b" not in body and "<script" not in body and "\n# Big" not in body and not re.search(r"(?<!\\)\]\(", body)
    )
    assert '\n"```' in body and "\n```\n</details>{" not in body


# ------------------------------------------------------------------------------------------------ the folder


def test_an_export_is_whole_or_not_there(place, capsys, monkeypatch):
    monkeypatch.setattr(export.model_card, "text", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("--export", "deep/er")
    assert not Path("deep").exists()


def test_an_earlier_export_alone_is_replaced(place, capsys):
    before = tree(Path("out"))
    assert run("--export", "out/model") == 2
    refused(capsys, "--export=out/model", "exists", "--overwrite")
    Path("mine").mkdir()
    for folder in ("mine", "checkpoints/r/prepared", "t5", "t5/config.json"):
        assert run("--export", folder, "--overwrite") == 2
        refused(capsys, f"--export={folder}", "no earlier export", "choose another folder")
    assert tree(Path("out")) == before and not list(Path("mine").iterdir())
    assert run("--export", "out/model", "--overwrite") == 0
    manifest = artifacts.read_manifest(Path("out/model"), export.STAGE)
    assert manifest["inputs"]["checkpoint"]["path"] == "../../checkpoints/r/ppo/step-0002"
    assert {path.name for path in Path("out/model").iterdir()} == FILES


def test_an_export_is_evaluated_first_but_only_once(place, monkeypatch):
    shutil.rmtree("checkpoints/r/evaluation")
    assert run("--export", "one") == 0 and Path("checkpoints/r/evaluation/step-0002/results.json").exists()
    monkeypatch.setattr(evaluate_ppo, "evaluate", None)
    assert run("--export", "two", "--checkpoint", str(STEP)) == 0
    assert Path("one/model.safetensors").read_bytes() == Path("two/model.safetensors").read_bytes()


# --------------------------------------------------------------------------------------------------- the hub


@pytest.fixture
def hub(place, tmp_path, monkeypatch):
    (tmp_path / "hub/models").mkdir(parents=True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    with loopback_hub.start(tmp_path / "hub", tokens={"hf_mine": "me"}) as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        problem.cache_clear()
        yield running
    problem.cache_clear()


def test_a_push_is_one_commit_to_a_private_repository(hub, capsys):
    before = tree(Path())
    assert run("--push-to-hub", "me/civil") == 0
    assert f"pushed: {hub.url}/me/civil" in capsys.readouterr().out
    assert hub.private == {"me/civil"} and hub.commits["me/civil"] == [sorted(FILES - {"manifest.json"})]
    assert tree(Path()) == before, "without --export nothing is left here"
    pushed = loading.load_summarizer("me/civil").state_dict()
    exported = AutoModelForSeq2SeqLM.from_pretrained("out/model").state_dict()
    assert all(torch.equal(pushed[name], tensor) for name, tensor in exported.items())
    assert 'name = "me/civil"' in (hub.root / "models/me/civil/README.md").read_text()


def test_a_repository_with_files_is_not_written_over_by_mistake(hub, capsys):
    folder = hub.root / "models/me/civil"
    folder.mkdir(parents=True)
    (folder / ".gitattributes").write_text("as the hub makes it\n")
    assert run("--push-to-hub", "me/civil", "--export", "both") == 0
    capsys.readouterr()
    assert run("--push-to-hub", "me/civil") == 2
    refused(capsys, "--push-to-hub=me/civil", "has files", "--overwrite")
    assert len(hub.commits["me/civil"]) == 1
    assert run("--push-to-hub", "me/civil", "--overwrite") == 0 and len(hub.commits["me/civil"]) == 2


def test_a_hub_that_refuses(hub, capsys, monkeypatch):
    def told(*words: str, name: str = "me/civil") -> None:
        monkeypatch.setattr(evaluate_ppo, "evaluate", None)
        shutil.rmtree("checkpoints/r/evaluation", ignore_errors=True)
        assert run("--push-to-hub", name) == 2
        refused(capsys, f"--push-to-hub={name}", *words)

    monkeypatch.setenv("HF_TOKEN", "hf_stolen")
    told("does not take the token", "the token in HF_TOKEN, which goes before a login")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "no-such-file")
    told("no token", "hf auth login")
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    hub.refuse["me/civil"] = 403
    told("no writing there", "of your own")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    told("HF_HUB_OFFLINE is set")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    told("cannot be reached", "127.0.0.1:9")
    assert hub.commits == {}


def test_a_name_of_somebody_else(hub, capsys):
    assert run("--push-to-hub", "you/civil") == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("error: --push-to-hub=you/civil: ") and "no writing there" in shown.err
    assert hub.commits == {} and not (hub.root / "models/you").exists()


# -------------------------------------------------------------------------------------------------------- ask


def test_asking_writes_nothing_and_says_what_both_models_say(place, capsys, monkeypatch):
    line = json.loads(Path("checkpoints/r/evaluation/step-0002/examples.jsonl").read_text().splitlines()[0])
    Path("mine.txt").write_text("\ufeff" + line["dialogue"].replace("\n", "\r\n") + "\n")
    shutil.rmtree("checkpoints/r/evaluation")
    before = tree(Path())
    assert run("--ask", "mine.txt") == 0
    shown = capsys.readouterr()
    assert tree(Path()) == before
    assert "Before" in shown.out and "After: r/step-0002" in shown.out
    for side in ("before", "after"):
        record = line[side]["greedy"]
        assert record["summary"].split()[0] in shown.out
        assert f"toxicity  {record['toxicity']:.4f}" in shown.out and f"judge     {record['judge']:.4f}" in shown.out
    cut = [not line[side]["greedy"]["finished"] for side in ("before", "after")]
    assert shown.out.count("(cut") == sum(cut) > 0, "what met the limit of tokens says so"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(Path("mine.txt").read_bytes())))
    assert run("--ask", "-") == 0 and capsys.readouterr().out == shown.out


def test_what_models_write_is_never_interpreted():
    columns = {"Before": ("a\x1b[2J\u202eb\nc", {"toxicity": 0.5}), "After": ("", {"toxicity": 0.25})}
    lines = ask.side_by_side(columns, width=60).splitlines()
    assert lines[2].split() == ["ab", "c", "(empty)"]
    assert lines[-1].split() == ["toxicity", "0.5000", "toxicity", "0.2500"]
    assert all(line.isprintable() and len(line) <= 60 for line in lines)
    long = ask.side_by_side({"Before": ("word " * 40, {"judge": 0.0}), "After": ("x" * 200, {"judge": 1.0})}, width=60)
    assert max(map(len, long.splitlines())) <= 60 and long.count("word") == 40 and long.count("x") == 200


def test_standard_input_that_is_closed(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UserError, match="--ask=-: is empty"):
        ask._read("-")


class Terminal(io.BytesIO):
    def isatty(self) -> bool:
        return True


def test_dialogues_typed_one_after_the_other(place, capsys, monkeypatch):
    first, second = "#Person1#: you idiot\n#Person2#: stop", "#Person1#: people talk"
    single = []
    for dialogue in (first, second):
        Path("d.txt").write_text(dialogue)
        assert run("--ask", "d.txt") == 0
        single.append(capsys.readouterr().out)
    loaded, load = [], ask.load_engine
    monkeypatch.setattr(ask, "load_engine", lambda *given: loaded.append(given) or load(*given))
    typed = f"\n{first}\n\n\n".encode() + b"caf\xe9\n\n" + b"the " * 2000 + f"\n  \n{second}".encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Terminal(typed)))
    assert run("--ask", "-") == 0
    shown = capsys.readouterr()
    assert shown.out == "".join(answer + "\n" for answer in single) and len(loaded) == 2
    told = [line for line in shown.err.splitlines() if line.startswith("error: ")]
    assert len(told) == 2 and "0xe9 at byte 3" in told[0] and "shorten the dialogue" in told[1]
    assert "an empty line ends it" in shown.err


def test_each_typed_dialogue_is_answered_as_it_comes(monkeypatch):
    stdin = io.TextIOWrapper(Terminal(b"a\nb\n\nc\n\n"))
    monkeypatch.setattr(sys, "stdin", stdin)
    typed = ask._type()
    assert next(typed) == b"a\nb\n" and stdin.buffer.tell() == 5, "nothing more is read before the answer"
    assert list(typed) == [b"c\n"]


def test_a_dialogue_unlike_those_of_the_run_is_told(place, capsys, monkeypatch):
    Path("d.txt").write_text("#Person1#: people talk")
    assert run("--ask", "d.txt") == 0
    last = " ".join(capsys.readouterr().out.partition("note: ")[2].split())
    assert last == "the run has 10 held-out dialogues, too few to tell whether this one is like them"
    for value, note in ((0.0, False), (1.0, True)):
        monkeypatch.setattr(familiarity, "usual", lambda *_, value=value: familiarity.Usual((value,) * 40))
        assert run("--ask", "d.txt") == 0
        shown = capsys.readouterr().out
        last = " ".join(shown.partition("note: ")[2].split())
        assert last.startswith("unlike the dialogues of this run") == note
        assert not note or last.endswith("do not trust these summaries")
        assert all(len(line) <= 80 for line in shown.splitlines())


def test_the_limit_is_the_runs_own():
    """As many of the run's own kind are called unlike it as is said, whatever the figures are."""
    for scale in (1.0, 0.01):
        usual = familiarity.Usual(tuple(scale * (0.2 + i / 100) for i in reversed(range(64))))
        assert usual.note(scale * 0.22) is None, "three of 65"
        assert "62 of 64" in usual.note(scale * 0.2)
    assert familiarity.Usual(tuple([0.5] * 19)).note(0.5) is None
    assert "19 of 19" in familiarity.Usual(tuple([0.5] * 19)).note(0.4)
    assert "too few" in familiarity.Usual(tuple([0.5] * 18)).note(0.4) and "too few" in familiarity.Usual(()).note(1.0)


def test_the_demo_knows_its_own_dialogues_and_no_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flags = ("--preset", "demo", "--data.max-examples", "60")
    assert stage(config.Preparation, data_preparation.main, *flags) == 0
    tokenizer = tokenizers.load_tokenizer("demo:base")
    prepared = Path("checkpoints/demo/prepared")
    model = adapters.load_adapter(loading.load_summarizer("demo:base"), "demo:lora")
    engine = hugging_face.HuggingFaceEngine(model)
    usual = familiarity.usual(engine, load_prepared(prepared), 48, 64)

    def note(dialogue: str) -> str | None:
        query = ask.to_query("-", dialogue, prepared, tokenizer)
        return usual.note(familiarity.sureness(engine.generate(engine.encode([query]), 48))[0])

    assert note((Path(__file__).parents[2] / "examples/dialogue.txt").read_text().strip()) is None
    for outside in (
        "#Person1#: How was the hike on Sunday?\n#Person2#: Gorgeous, but my knees are killing me.",
        "#Person1#: My laptop keeps freezing.\n#Person2#: Have you tried restarting it?\n#Person1#: Twice.",
        "The central bank raised its key interest rate by a quarter of a percentage point on Thursday.",
        "asdf qwer zxcv",
    ):
        assert "do not trust" in note(outside), outside
