"""The hub: the default preset's real names, through a stand-in on the loopback; absent, gated, in trouble."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import huggingface_hub
import loopback_hub
import pytest
import tiny
import torch
from huggingface_hub import constants

import config
import data_preparation
import evaluate_ppo
import training_lora
import training_ppo
from detox.data import preparation
from detox.data.sources import locate
from detox.data.splits import SPLITS
from detox.model import adapters, loading, tokenizers
from detox.model.hub import PROBE_SECONDS, fetch, problem
from detox.scoring.classifier import load_classifier
from detox.stage import artifacts, cli, environment
from detox.stage.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
Point = Callable[[str], None]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tiny.hub(tmp_path_factory.mktemp("hub"))


@pytest.fixture
def point(tmp_path, monkeypatch) -> Iterator[Point]:
    """Let the libraries use a hub at the address that it is called with, and a fresh cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def use(url: str) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
        problem.cache_clear()

    yield use
    problem.cache_clear()


@pytest.fixture
def hub(root, point) -> Iterator[loopback_hub.Hub]:
    with loopback_hub.start(root) as running:
        point(running.url)
        yield running


@pytest.fixture
def closed() -> str:
    """An address at which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def fetch_dataset() -> Path:
    return fetch(tiny.DIALOGSUM, None, ["*.csv"], "dataset")


LOADERS: dict[str, tuple[str, Callable[[], object]]] = {
    "tokenizer": (tiny.FLAN_T5, lambda: tokenizers.load_tokenizer(tiny.FLAN_T5)),
    "summarizer": (tiny.FLAN_T5, lambda: loading.load_summarizer(tiny.FLAN_T5)),
    "classifier": (tiny.REWARD, lambda: load_classifier(tiny.REWARD, None, "nothate")),
    "dataset": (tiny.DIALOGSUM, fetch_dataset),
}
each_loader = pytest.mark.parametrize(("name", "load"), LOADERS.values(), ids=LOADERS)


# ----------------------------------------------------------------------------------------------- within reach


def test_the_real_names(hub, root):
    tokenizer, model = tokenizers.load_tokenizer(tiny.FLAN_T5), loading.load_summarizer(tiny.FLAN_T5)
    local = loading.load_summarizer(str(root / "models" / tiny.FLAN_T5))
    for name, parameter in local.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name)), name
    assert model.config._name_or_path == tokenizer.name_or_path == tiny.FLAN_T5, "not a path of the cache"
    commit = loading.resolved_revision(model)
    assert len(commit) == 40 and loading.resolved_revision(tokenizer) == commit
    adapted = adapters.load_adapter(model, tiny.ADAPTER)
    assert len(loading.resolved_revision(adapted)) == 40 and loading.resolved_revision(adapted) != commit
    for name, label in (
        (tiny.REWARD, "nothate"),
        (tiny.JUDGE, "toxic"),
    ):
        classifier = load_classifier(name, None, label)
        assert classifier.labels[classifier.label_id] == label and classifier.max_length == 512
        assert not {"pytorch_model.bin", "tokenizer.json", "tokenizer_config.json"} & hub.fetched(name)
        assert len(loading.resolved_revision(classifier.model)) == 40
    assert hub.fetched(tiny.FLAN_T5) >= {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
    }


def test_the_tokenizer_alone_takes_no_weights(hub):
    tokenizers.load_tokenizer(tiny.FLAN_T5)
    assert hub.fetched(tiny.FLAN_T5) == {
        "config.json",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_only_what_is_needed_is_fetched(hub, root, tmp_path):
    folder = root / "models" / "someone" / "cluttered"
    tiny.classifier(folder)
    for file in (
        "pytorch_model.bin",
        "training_args.bin",
        "code.py",
        "model.fp16.safetensors",
        "onnx/model.onnx",
    ):
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_bytes(b"not wanted")
    hub.listing["someone/cluttered"] = [
        "../../../escape.json",
        "tokenizer/../../../../vocab.json",
        "sub/config.json",
    ]
    load_classifier("someone/cluttered", None, "hate")
    wanted = {"config.json", "merges.txt", "model.safetensors", "special_tokens_map.json"}
    assert hub.fetched("someone/cluttered") == wanted | {"tokenizer_config.json", "vocab.json"}
    assert not list(tmp_path.rglob("escape.json")) and not (tmp_path / "vocab.json").exists()


def test_dataset_by_this_project_and_by_the_library(hub, tmp_path):
    assert sorted(path.name for path in fetch_dataset().glob("*.csv")) == [
        "test.csv",
        "train.csv",
        "validation.csv",
    ]
    loaded = datasets.load_dataset("csv", data_dir=str(fetch_dataset()), cache_dir=str(tmp_path / "datasets"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 50, "validation": 12, "test": 37}


@pytest.mark.parametrize("file", ["train.csv", "data/train-00000-of-00001.jsonl", "samsum.jsonl", "data/all.csv"])
def test_a_dataset_with_one_split(hub, root, file):
    """Split like a single file; files of other kinds are not fetched."""
    place = root / "datasets" / "someone" / f"talks-{Path(file).stem}"
    (place / file).parent.mkdir(parents=True)
    rows = [{"dialogue": f"A: {n}\nB: so", "summary": f"they say {n}"} for n in range(60)]
    if file.endswith(".csv"):
        text = "dialogue,summary\n" + "".join(f'"{row["dialogue"]}",{row["summary"]}\n' for row in rows)
    else:
        text = "".join(json.dumps(row) + "\n" for row in rows)
    (place / file).write_text(text)
    (place / "talks.py").write_text("raise SystemExit")
    name = f"someone/{place.name}"
    source = locate(config.Data(dataset=name), 0)
    counts = {split: len([*source.rows(split)]) for split in SPLITS}
    assert sum(counts.values()) == 60 and min(counts.values()) > 0
    assert hub.fetched(name) == {file} and len(source.revision) == 40


def test_a_pinned_revision(hub):
    commit = loading.resolved_revision(tokenizers.load_tokenizer(tiny.FLAN_T5))
    assert loading.resolved_revision(loading.load_summarizer(tiny.FLAN_T5, commit)) == commit
    with pytest.raises(UserError, match="no such revision"):
        tokenizers.load_tokenizer(tiny.FLAN_T5, "v9")


def test_the_stand_in_answers_ranges(hub, root):
    content = (root / "models" / tiny.FLAN_T5 / "model.safetensors").read_bytes()
    address = f"{hub.url}/{tiny.FLAN_T5}/resolve/main/model.safetensors"
    for part, expected in (("bytes=1000-", content[1000:]), ("bytes=0-9", content[:10])):
        session = huggingface_hub.utils.get_session()
        answer = session.get(address, headers={"Range": part}, follow_redirects=True)
        assert (answer.status_code, answer.content) == (206, expected)


def test_no_second_transfer_protocol(hub):
    loading.load_summarizer(tiny.FLAN_T5)
    assert not [request for request in hub.requests if "xet" in request]


# ------------------------------------------------------------------------------------------------- in trouble


@each_loader
def test_unreachable(point, closed, name, load):
    point(closed)
    start = time.monotonic()
    with pytest.raises(UserError) as error:
        load()
    assert time.monotonic() - start < 5
    message = str(error.value)
    assert message.startswith(f"{name}: ") and closed in message and "\n" not in message
    assert "--preset demo" in message and "local path" in message
    assert ("demo:corpus" in message, "demo:base" in message) == (load is fetch_dataset, load is not fetch_dataset)
    assert constants.HF_HUB_OFFLINE is False, "as it was"


def test_a_hub_that_never_answers(point):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        point(f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        for name, load in LOADERS.values():
            with pytest.raises(UserError, match=f"{name}: .* local path, or .*--preset demo"):
                load()
        assert time.monotonic() - start < PROBE_SECONDS + 3, "it is asked once for all"


def test_what_is_cached_works_without_the_hub(root, point, closed, monkeypatch):
    with loopback_hub.start(root) as running:
        point(running.url)
        commit = loading.resolved_revision(tokenizers.load_tokenizer(tiny.FLAN_T5))
        load_classifier(tiny.REWARD, None, "nothate")
        fetch_dataset()
    for url, offline in ((closed, False), (closed, True)):
        point(url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        start = time.monotonic()
        assert loading.resolved_revision(tokenizers.load_tokenizer(tiny.FLAN_T5)) == commit
        assert load_classifier(tiny.REWARD, None, "nothate").label_id == 0
        assert (fetch_dataset() / "train.csv").exists()
        with pytest.raises(UserError, match="not in the local cache"):  # the tokenizer is, the weights are not
            loading.load_summarizer(tiny.FLAN_T5)
        assert time.monotonic() - start < 5


def test_offline_by_setting_asks_nobody(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        tokenizers.load_tokenizer(tiny.FLAN_T5)
    assert hub.requests == []


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (403, "gated; accept its terms"),
        (401, "no such repository"),
        (503, "it answers 503"),
        (500, "it answers 500"),
    ],
)
@each_loader
def test_refused_by_the_hub(hub, name, load, status, says):
    hub.refuse[name] = status
    start = time.monotonic()
    with pytest.raises(UserError) as error:
        load()
    assert time.monotonic() - start < 5
    assert str(error.value).startswith(f"{name}: ") and says in str(error.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("google/flan-t5-bass", "no such repository"),
        ("no-such-folder", "no such repository"),
        ("google/flan t5", "neither a folder nor a name on the hub"),
        ("google/flan-t5-base@main", "neither a folder nor a name on the hub"),
    ],
)
def test_wrong_names(hub, name, says):
    with pytest.raises(UserError) as error:
        loading.load_summarizer(name)
    assert str(error.value).startswith(f"{name}: ") and says in str(error.value)


def test_a_repository_without_safetensors(hub, root, capsys):
    """A pickle of tensors alone is fetched and read; where there are safetensors, it is not even fetched."""
    folder = tiny.classifier(root / "models" / "someone" / "pickled")
    safe = tiny.classifier(root / "models" / "someone" / "safe")
    tiny.pickled(folder)
    shutil.copy(folder / "pytorch_model.bin", safe)
    ours, same = (load_classifier(f"someone/{name}", None, "hate").model for name in ("pickled", "safe"))
    assert all(torch.equal(tensor, same.state_dict()[name]) for name, tensor in ours.state_dict().items())
    assert "pytorch_model.bin" not in hub.fetched("someone/safe")
    assert capsys.readouterr().err.count("someone/pickled/pytorch_model.bin is a pickle") == 1


def test_the_supervised_checkpoint_as_the_hub_has_it(hub, root, capsys):
    """A pickle and twelve settings, as PEFT 0.3 wrote them."""
    assert len(json.loads((root / "models" / tiny.ADAPTER / "adapter_config.json").read_text())) == 12
    adapters.load_adapter(loading.load_summarizer(tiny.FLAN_T5), tiny.ADAPTER)
    assert hub.fetched(tiny.ADAPTER) == {"adapter_config.json", "adapter_model.bin"}


def test_the_quirks_of_the_real_dialogues(hub):
    tokenizer = tokenizers.load_tokenizer(tiny.FLAN_T5)
    dataset, counts = preparation.prepare(config.Data(), tokenizer, 0)
    assert (counts["train/duplicate"], counts["train/too long"], counts["test/beyond 3 references"]) == (1, 1, 1)
    assert len(dataset["train"]) == 48 and {len(group) for group in dataset["test"]["summaries"]} == {3}


# -------------------------------------------------------------------------------- what the environment brings


@pytest.fixture
def fresh_client(monkeypatch) -> Iterator[None]:
    """Let the client be made anew from the environment of the test, and again after it."""
    for name in ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "HF_TOKEN", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    huggingface_hub.close_session()
    yield
    monkeypatch.undo()
    huggingface_hub.close_session()


ENVIRONMENTS = {
    "kind of proxy": ({"ALL_PROXY": "socks://127.0.0.1:1080"}, ("ALL_PROXY=socks://127.0.0.1:1080", "socks5://")),
    "proxy over ftp": ({"HTTPS_PROXY": "ftp://proxy:1"}, ("HTTPS_PROXY=ftp://proxy:1", "unset it")),
    "port": ({"http_proxy": "http://proxy:port"}, ("http_proxy=http://proxy:port", "port", "unset it")),
    "port with a letter": ({"HTTP_PROXY": "proxy:80a"}, ("HTTP_PROXY=proxy:80a", "unset it")),
    "password in a proxy": ({"ALL_PROXY": "socks://me:secret@proxy:1"}, ("ALL_PROXY=socks://proxy:1",)),
    "certificate": ({"SSL_CERT_FILE": "/no/such.pem"}, ("SSL_CERT_FILE=/no/such.pem: no such file",)),
    "token": ({"HF_TOKEN": "hf_clé"}, ("the token in HF_TOKEN, which goes before a login", "not plain ASCII")),
    "old token": ({"HUGGING_FACE_HUB_TOKEN": "hf_„mine“"}, ("HUGGING_FACE_HUB_TOKEN", "not plain ASCII")),
}


@pytest.mark.parametrize(("variables", "says"), ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_what_no_client_can_be_made_of_is_told_by_its_name(hub, root, monkeypatch, fresh_client, variables, says):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as error:
        tokenizers.load_tokenizer(tiny.FLAN_T5)
    message = str(error.value)
    assert message.startswith(f"{tiny.FLAN_T5}: ") and all(part in message for part in says), message
    assert "secret" not in message and hub.requests == []
    loading.load_summarizer(str(root / "models" / tiny.FLAN_T5))
    load_classifier("demo:reward", None, "nothate")


@pytest.mark.parametrize("variables", [case[0] for case in ENVIRONMENTS.values()], ids=ENVIRONMENTS)
@pytest.mark.parametrize("offline", [False, True])
def test_what_is_cached_needs_no_client(hub, monkeypatch, fresh_client, variables, offline):
    commit = loading.resolved_revision(tokenizers.load_tokenizer(tiny.FLAN_T5))
    fetch_dataset()
    problem.cache_clear()
    huggingface_hub.close_session()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    assert loading.resolved_revision(tokenizers.load_tokenizer(tiny.FLAN_T5)) == commit
    assert (fetch_dataset() / "train.csv").exists()


def test_a_proxy_that_does_not_answer_is_named(point, monkeypatch, fresh_client):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    point("http://hub.example")
    with pytest.raises(UserError, match="cannot be reached .*HTTP_PROXY sets a proxy"):
        tokenizers.load_tokenizer(tiny.FLAN_T5)


def test_a_proxy_of_the_kind_socks5_is_taken(point, monkeypatch, fresh_client):
    """Its own package is a requirement; here nothing listens behind it."""
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    point("http://hub.example")
    with pytest.raises(UserError, match="cannot be reached .*ALL_PROXY sets a proxy") as error:
        tokenizers.load_tokenizer(tiny.FLAN_T5)
    assert "socksio" not in str(error.value)


@each_loader
@pytest.mark.parametrize("variable", ["HF_TOKEN", "login"])
def test_a_token_that_has_expired(hub, monkeypatch, tmp_path, fresh_client, name, load, variable):
    hub.expired.add("hf_old")
    if variable == "login":
        (tmp_path / "token").write_text("hf_old\n")
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    else:
        monkeypatch.setenv("HF_TOKEN", "hf_old")
    with pytest.raises(UserError) as error:
        load()
    place = str(tmp_path / "token") if variable == "login" else "HF_TOKEN, which goes before a login"
    assert str(error.value).startswith(f"{name}: ")
    assert f"the token in {place}" in str(error.value) and "expired" in str(error.value), error.value


@pytest.mark.parametrize("variable", environment._NUMBERS)
def test_variables_that_are_no_numbers(tmp_path, closed, variable):
    """They matter where the hub is needed, and there alone."""
    variables = loopback_hub.Hub(tmp_path, url=closed).environment(tmp_path / "home") | {"PATH": "/usr/bin:/bin"}

    def prepare(*flags):
        command = [sys.executable, str(ROOT / "data_preparation.py"), *flags]
        return subprocess.run(command, env=variables | {variable: "soon"}, cwd=tmp_path, capture_output=True, text=True)

    hub_needed = prepare()
    assert hub_needed.returncode == 2 and len(hub_needed.stderr.splitlines()) == 1, hub_needed.stderr
    assert f"{variable}='soon' is no number; correct or unset it" in hub_needed.stderr
    assert prepare("--preset", "demo", "--data.max-examples", "5").returncode == 0


def test_a_cache_that_cannot_be_written(hub, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match="cannot be stored in the cache .*HF_HOME"):
        tokenizers.load_tokenizer(tiny.FLAN_T5)


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        (json.JSONDecodeError("Expecting value", "<html>", 0), "does not answer as a hub does .*HF_ENDPOINT"),
        (
            OSError("Consistency check failed: file should be of size 1, but has size 2"),
            "came damaged from .*try again",
        ),
    ],
)
def test_a_page_of_something_else_in_place_of_the_hubs_answer(hub, monkeypatch, failure, says):
    def fails(*arguments, **options):
        raise failure

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
    with pytest.raises(UserError, match=says):
        tokenizers.load_tokenizer(tiny.FLAN_T5)


def test_the_default_preset_without_a_hub(tmp_path):
    """The command itself: one line, exit code 2, without the libraries' own retries."""
    with loopback_hub.hanging_up() as hub:
        done = subprocess.run(
            [sys.executable, str(ROOT / "data_preparation.py"), "--checkpoints", str(tmp_path / "checkpoints")],
            env=hub.environment(tmp_path / "home") | {"PATH": "/usr/bin:/bin"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
    assert len(hub.requests) == 1
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and "--preset demo" in done.stderr, done.stderr
    assert done.stderr.startswith(f"error: --data.dataset={tiny.DIALOGSUM}: ")
    assert not list(tmp_path.rglob("manifest.json"))


# ------------------------------------------------------------------------------------------- as a stage tells it


@pytest.fixture(scope="module")
def run_there(tmp_path_factory) -> Path:
    """A folder with a run of one update."""
    place = tiny.start_world(tmp_path_factory.mktemp("world"), train=8, validation=4, test=4)
    with tiny.inside(place):
        argv = "--run r --model.base t5 --data.dataset dialogues".split()
        assert cli.run(config.Preparation, data_preparation.main, argv) == 0
        argv = "--run r --model.base t5 --model.adapter lora --reward.model reward --device cpu --ppo.updates 1".split()
        assert cli.run(config.PPOTraining, training_ppo.main, [*argv, "--ppo.batch-size", "8"]) == 0
    return place


@pytest.mark.parametrize(
    ("stage", "main", "flag", "others"),
    [
        (config.Preparation, data_preparation.main, "--data.dataset", "--model.base t5"),
        (config.Preparation, data_preparation.main, "--model.base", "--data.dataset dialogues"),
        (config.LoraTraining, training_lora.main, "--model.base", "--device cpu"),
        (config.PPOTraining, training_ppo.main, "--model.base", "--overwrite"),
        (config.PPOTraining, training_ppo.main, "--model.adapter", "--overwrite --model.base t5"),
        (config.PPOTraining, training_ppo.main, "--reward.model", "--overwrite --model.base t5 --model.adapter lora"),
        (config.EvaluationStage, evaluate_ppo.main, "--toxicity.model", "--device cpu"),
        (config.EvaluationStage, evaluate_ppo.main, "--judge.model", "--device cpu --toxicity.model reward"),
    ],
)
def test_a_stage_names_the_flag_of_what_the_hub_refuses(
    run_there, tmp_path, monkeypatch, capsys, hub, point, closed, stage, main, flag, others
):
    shutil.copytree(run_there, tmp_path / "w")
    monkeypatch.chdir(tmp_path / "w")
    if stage is config.Preparation:
        shutil.rmtree("checkpoints/r/prepared")
    name = "someone/wanted"
    for status, says in ((403, "gated; accept"), (401, "no such repository"), (None, "cannot be reached")):
        if status is None:
            point(closed)
        else:
            hub.refuse[name] = status
        assert cli.run(stage, main, ["--run", "r", flag, name, *others.split()]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {flag}={name}: ") and says in error and error.count("\n") == 1, error


def test_a_classifier_that_a_run_was_trained_against_is_out_of_reach(tmp_path, monkeypatch, capsys, point, closed):
    """Nobody typed its name, and its labels are read before anything else."""
    monkeypatch.chdir(tmp_path)
    settings = config.PPOTraining(run="r", reward=config.Reward("someone/wanted"))
    with artifacts.publish(Path("checkpoints/r/ppo/step-0001"), stage="training_ppo", settings=settings):
        pass
    point(closed)
    assert cli.run(config.EvaluationStage, evaluate_ppo.main, ["--run", "r"], of_run=evaluate_ppo.of_run) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: someone/wanted: not in the local cache") and error.count("\n") == 1
    assert error.endswith("; checkpoints/r/ppo/step-0001 was trained with it, and is evaluated with it\n")
