"""README.md and the pages of docs: each command is parsed by what it calls, the stages run at small sizes, and links
lead somewhere.

A command is a line of a fenced block that begins with a known program, or inline code that begins with one or with a
stage's script. A block tagged `sh` or `bash` holds nothing but commands. A new kind fails until `check` knows it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import config
from detox.demo import corpus
from detox.stage import parsing
from detox.stage.errors import UserError
from tests import loopback_hub, tiny

ROOT = Path(__file__).resolve().parent.parent
PLACEHOLDERS = {"your LoRA checkpoint": tiny.ADAPTER}
"""`<words>` of the README that a run here has something for."""
SHELL = {"cd", "git", "pip", "source", "echo", "cat"}
PROGRAMS = {"python", "python3", "make", "accelerate", *SHELL}
SIZES = {
    "data_preparation.py": "--data.max-examples 12",
    "training_lora.py": "--lora.max-steps 1 --lora.batch-size 2",
    "training_ppo.py": "--ppo.batch-size 2 --ppo.minibatch-size 2 --ppo.samples-per-dialogue 2 "
    "--rollout.max-new-tokens 8 --ppo.on-collapse warn --save.every 20",
    "evaluate_ppo.py": "--evaluation.examples 8 --evaluation.samples 2 --evaluation.max-new-tokens 8 "
    "--evaluation.resamples 100 --evaluation.best-of 2 --evaluation.batch-size 16",
}
NOT_RUN = {"--push-to-hub"}
"""Flags whose commands are parsed only; tests of their own run them."""


class Stale(Exception):
    """The README says what the project does not do."""


class Parsed(BaseException):
    """A script's own argparse has taken its arguments."""


# ------------------------------------------------------------------------------------------------- reading it


def blocks(text: str) -> list[tuple[str, str]]:
    """Return language and content of the fenced blocks."""
    return re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S)


def inline(text: str) -> list[str]:
    """Return the inline code outside fenced blocks."""
    return re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def commands(text: str) -> list[list[str]]:
    """Return the words of each command; placeholders that have no value stay as `<words>`."""
    return [*fenced_commands(text), *inline_commands(text)]


def fenced_commands(text: str) -> list[list[str]]:
    found = []
    for language, content in blocks(text):
        for line in content.replace("\\\n", " ").splitlines():
            line = line.removeprefix("$ ").strip()
            if language in ("sh", "bash", "console") or first_word(line) in PROGRAMS:
                found += split(line)
    return found


def inline_commands(text: str) -> list[list[str]]:
    starts = {*PROGRAMS, *config.STAGES}
    return [words for code in inline(text) if first_word(code) in starts for words in split(code)]


def first_word(line: str) -> str:
    """Return the program, behind settings of the environment."""
    return re.sub(r"^(?:[A-Z_]+=\S* )*", "", line).split(" ")[0]


def split(line: str) -> list[list[str]]:
    """Return the commands of a line, without comments, settings of the environment and redirections."""
    line = re.sub(r"<([^<>\n]*[a-z][^<>\n]*)>", lambda m: shlex.quote(PLACEHOLDERS.get(m[1], m[0])), line)
    parts: list[list[str]] = [[]]
    for word in shlex.split(line, comments=True):
        if word in ("&&", "||", "|", ";"):
            parts.append([])
        elif parts[-1] or not re.fullmatch(r"[A-Z_]+=.*", word):
            parts[-1].append(word)
    scripts = [["python", *part] if part and part[0] in config.STAGES else part for part in parts]
    return [part for part in scripts if part]


def stage_command(words: list[str]) -> tuple[str, list[str]] | None:
    """Return script and flags where the command is a stage in a process of its own."""
    if len(words) > 1 and words[0] in ("python", "python3") and words[1] in config.STAGES:
        return words[1], words[2:]
    return None


# ------------------------------------------------------------------------------------------------- checking it


def check(words: list[str]) -> None:
    """Raise `Stale` unless what the command calls is there and takes these arguments."""
    program, rest = words[0], words[1:]
    if program in ("python", "python3"):
        check_python(rest)
    elif program == "accelerate" and rest[:1] == ["launch"]:
        check_launch(rest[1:])
    elif program == "make":
        check_make(rest)
    elif program == "pip":
        check_pip(rest)
    elif program not in SHELL:
        raise Stale(f"no check for this kind of command: {shlex.join(words)}; add one to {Path(__file__).name}")


def check_python(words: list[str]) -> None:
    if words[:2] in (["-m", "pip"], ["-m", "venv"]):
        return check_pip(words[2:]) if words[1] == "pip" else None
    if words[:2] == ["-m", "torch.distributed.run"]:
        return check_torchrun(words[2:])
    if words[:1] == ["-m"]:
        spec = find_spec(words[1])
        if spec is None:
            raise Stale(f"there is no module {words[1]}")
        name = words[1] + ".__main__" if spec.submodule_search_locations else words[1]
        source = find_spec(name)
        if source is None or source.origin is None:
            raise Stale(f"{words[1]} can't be run as a module")
        return check_argparse(Path(source.origin), words[2:])
    if not words or not (ROOT / words[0]).is_file():
        raise Stale(f"there is no script {words[:1]}")
    if words[0] in config.STAGES:
        return check_stage(words[0], words[1:])
    return check_argparse(ROOT / words[0], words[1:])


def check_stage(script: str, argv: list[str]) -> None:
    try:
        parsing.parse(config.STAGES[script], argv)
    except UserError as refusal:
        raise Stale(f"{script}: {refusal}") from refusal
    except SystemExit:  # --help
        return


def check_argparse(path: Path, argv: list[str]) -> None:
    """Let the script parse its arguments, and stop it there; flags that it hands on to stages are parsed too."""
    if "argparse" not in path.read_text(encoding="utf-8"):
        if argv:
            raise Stale(f"{path.name} takes no arguments, but has {argv}")
        return
    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_stop(self, arguments=None, namespace=None):
        for name, value in vars(parse_args(self, arguments, namespace)).items():
            script = {"training": "training_ppo.py", "evaluation": "evaluate_ppo.py"}.get(name)
            if script and isinstance(value, str):
                check_stage(script, ["--preset", "demo", *shlex.split(value)])
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
        patch.setattr(sys, "argv", [str(path), *argv])
        patch.setattr(sys, "path", [*sys.path])
        try:
            runpy.run_path(str(path), run_name="__main__")
        except Parsed:
            return
        except SystemExit as stop:
            if not stop.code:  # --help
                return
            raise Stale(f"{path.name} refuses {shlex.join(argv)}") from stop
    raise Stale(f"{path.name} did not parse its arguments")


def check_launch(words: list[str]) -> None:
    from accelerate.commands.launch import launch_command_parser

    try:
        launch = launch_command_parser().parse_args(words)
    except SystemExit as stop:
        raise Stale(f"accelerate launch refuses {shlex.join(words)}") from stop
    if launch.config_file and not (ROOT / launch.config_file).is_file():
        raise Stale(f"there is no {launch.config_file}")
    check_python([launch.training_script, *launch.training_script_args])


def check_torchrun(words: list[str]) -> None:
    from torch.distributed.run import get_args_parser

    try:
        launch = get_args_parser().parse_args(words)
    except SystemExit as stop:
        raise Stale(f"torchrun refuses {shlex.join(words)}") from stop
    check_python([launch.training_script, *launch.training_script_args])


def check_make(words: list[str]) -> None:
    for variable in (word.split("=")[0] for word in words if "=" in word):
        if not re.search(rf"\$\({variable}\)", (ROOT / "Makefile").read_text()):
            raise Stale(f"the Makefile has no variable {variable}")
    dry_run([word for word in words if "=" not in word])


def dry_run(targets: list[str]) -> str:
    """Return what make would do."""
    command = ["make", "-n", *targets, f"PYTHON={sys.executable}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise Stale(f"make {' '.join(targets)}: {done.stderr.strip()}")
    return done.stdout


def check_pip(words: list[str]) -> None:
    for flag, name in zip(words, words[1:]):
        if flag in ("-r", "-c") and not (ROOT / name).is_file():
            raise Stale(f"there is no {name}")


def check_flags(code: str) -> None:
    """Raise `Stale` unless some stage takes these flags, which stand without a script."""
    refusals = []
    argv = shlex.split(re.sub(r"<[^<>]+>", "something", code))
    for script in config.STAGES:
        for preset in ([], ["--preset", "demo"]):
            try:
                return check_stage(script, [*preset, *argv])
            except Stale as stale:
                refusals.append(str(stale))
    known = [line for line in refusals if "no such option" not in line]
    if known and all("value is missing" in line for line in known):
        return  # the flag alone, named in a sentence
    raise Stale((known or refusals)[0])


PAGES = {
    path.relative_to(ROOT): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if path.name != "settings.md"  # written from config.py
}
TEXT = "\n".join(PAGES.values())
COMMANDS = [list(words) for words in sorted({tuple(words) for words in commands(TEXT)})]
FLAGS = sorted({code for code in inline(TEXT) if code.startswith("--")})


@pytest.mark.parametrize("words", COMMANDS, ids=shlex.join)
def test_each_command_is_understood_by_what_it_calls(words):
    check(words)


@pytest.mark.parametrize("code", FLAGS)
def test_each_flag_is_one_of_a_stage(code):
    if not any(code.split()[0] in " ".join(words) for words in COMMANDS if words[0] == "accelerate"):
        check_flags(code)


def anchors(text: str) -> set[str]:
    """Return the names of a page's headings, as links have them."""
    headings = re.findall(r"^#+ (.*)", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, Path("benchmarks/README.md"), Path("CONTRIBUTING.md")], ids=str)
def test_links_and_files_are_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    names = {path.name for path in ROOT.rglob("*.*") if not {".venv", ".git"} & set(path.parts)}
    missing = []
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", text):
        file = (ROOT / page).parent / target if target else ROOT / page
        if "://" not in target and not file.exists():
            missing.append(target)
        elif anchor and file.suffix == ".md" and anchor not in anchors(file.read_text(encoding="utf-8")):
            missing.append(f"{target}#{anchor}")
    files = [code for code in inline(text) if re.fullmatch(r"[\w./-]+\.(?:py|md|yaml|lock|toml)", code)]
    written = {"report.md", "mine.py"}  # by a stage, by the user
    missing += [name for name in files if not (ROOT / name).exists() and Path(name).name not in names | written]
    assert missing == []


# --------------------------------------------------------------------------------------------------- running it


def small(script: str, argv: list[str]) -> list[str]:
    """Add the small sizes that a command does not set itself."""
    if {"--help", "-h", "--plan"} & set(argv):
        return argv
    given = {word.partition("=")[0] for word in argv}
    words = SIZES[script].split()
    sizes = [word for pair in zip(words[::2], words[1::2]) if pair[0] not in given for word in pair]
    return [*argv, *sizes]


def runnable(text: str) -> list[tuple[str, list[str]]]:
    """Return the stages' commands that can run here, each once: those of `make run`, of blocks, and plans."""
    recipe = [line.split()[1:] for line in dry_run(["run"]).splitlines() if re.match(r"\S*bin/python \w+\.py", line)]
    plans = [words for words in inline_commands(text) if {"--plan", "--help"} & set(words)]
    chosen = []
    for words in [*(["python", *line] for line in recipe), *fenced_commands(text), *plans]:
        stage = stage_command(words)
        if stage is None or any("<" in word or word in NOT_RUN for word in words):
            continue
        once = (stage[0], [word for word in stage[1] if word != "--overwrite"])
        if once not in chosen:
            chosen.append(once)
    return chosen


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder in which all commands of the stages ran, the failures, and the environment of a stand-in hub."""
    place, root = tmp_path_factory.mktemp("place"), tmp_path_factory.mktemp("hub")
    shutil.copytree(ROOT / "examples", place / "examples")
    (place / "my-folder").mkdir()
    rows = corpus.generate(0, 80, 0, 0)["train"]
    (place / "my-folder/train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    failures = []
    tiny.t5(tiny.hub(root) / "models/google/flan-t5-xl")  # what the README plans for
    with loopback_hub.start(root) as hub:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment = clean | hub.environment(root / "home") | {"PYTHONPATH": str(ROOT)}
        for script, argv in runnable(TEXT):
            command = [sys.executable, str(ROOT / script), *small(script, argv)]
            done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
            if done.returncode:
                failures.append(f"python {script} {shlex.join(argv)}: {done.returncode}, {done.stderr[-500:]}")
        yield place, failures, environment


def test_the_stages_run_as_the_readme_says(ran):
    place, failures, _ = ran
    assert failures == []
    assert (place / "checkpoints/demo/evaluation/step-0020/report.html").is_file()
    assert (place / "checkpoints/demo/ppo/training.png").is_file()


@pytest.mark.parametrize("code", [content for language, content in blocks(TEXT) if language == "python"])
def test_python_code_runs_as_pasted(ran, code):
    place, _, environment = ran
    done = subprocess.run([sys.executable, "-c", code], cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1000:]


# ------------------------------------------------------------------------------------------ the checks themselves


@pytest.mark.parametrize(
    "line, reason",
    [
        ("python training_ppo.py --ppo.klcoef 0.1", "no such option"),
        ("training_ppo.py --ppo.kl-coef high", "must be a number"),
        ("python train.py", "there is no script"),
        ("python -m detox.nothing", "there is no module"),
        ("python benchmarks/ppo_step.py --shapes small", "refuses"),
        ('python benchmarks/demo_seeds.py --training "--ppo.kl 1"', "no such option"),
        ("python -m docs.settings_reference --all", "takes no arguments"),
        ("make fly", "No rule to make target"),
        ("make run SPEED=2", "no variable SPEED"),
        ("accelerate launch --config_file configs/none.yaml training_ppo.py", "there is no configs/none.yaml"),
        ("accelerate launch training_ppo.py --ppo.klcoef 1", "no such option"),
        ("python -m torch.distributed.run training_ppo.py --run own", "torchrun refuses"),
        ("python -m torch.distributed.run -- training_ppo.py --ppo.klcoef 1", "no such option"),
        ("pip install -r requirements-none.txt", "there is no requirements-none.txt"),
        ("docker run it", "no check for this kind of command"),
    ],
)
def test_a_stale_command_is_found(line, reason, capsys):
    ((words),) = commands(f"```sh\n{line}\n```")
    with pytest.raises(Stale, match=reason):
        check(words)


@pytest.mark.parametrize("code", ["--ppo.klcoef 0.1", "--data.pompt x", "--reward.signal softmax"])
def test_a_stale_flag_is_found(code):
    with pytest.raises(Stale):
        check_flags(code)


def test_commands_are_found_where_they_stand():
    text = (
        "Run `make run` or `training_ppo.py --plan`, not `detox/ppo/trainer.py`.\n\n"
        "```\ngit clone <this repository> && cd it\nmake test     # all\ndata_preparation  -> prepared\n```\n"
        "```bash\nOMP_NUM_THREADS=1 python training_ppo.py \\\n  --seed 1\n```\n"
    )
    assert commands(text) == [
        ["git", "clone", "<this repository>"],
        ["cd", "it"],
        ["make", "test"],
        ["python", "training_ppo.py", "--seed", "1"],
        ["make", "run"],
        ["python", "training_ppo.py", "--plan"],
    ]
