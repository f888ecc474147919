"""The command line: flags become settings, errors one line and an exit code, bugs keep their traceback."""

from __future__ import annotations

import dataclasses
import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import config
from detox.stage import cli, flags, notes, parsing
from detox.stage.errors import UserError
from detox.stage.help_text import help_text

ROOT = Path(cli.__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def program(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/training_ppo.py"])
    monkeypatch.setenv("COLUMNS", "80")


def parsed(*argv: str, stage: type = config.PPOTraining) -> config.Stage:
    seen = []
    assert cli.run(stage, seen.append, argv) == 0
    return seen[0]


def in_a_process(main: str, *argv: str, **options: object) -> subprocess.CompletedProcess:
    """Run a stage whose `main` has this body as a process of its own."""
    body = "\n".join(f"    {line}" for line in main.splitlines())
    script = f"import os, sys, config\nfrom detox.stage import cli\ndef main(settings):\n{body}\n"
    script += "sys.exit(cli.run(config.PPOTraining, main))"
    command = [sys.executable, "-c", script, *argv]
    return subprocess.run(
        command, cwd=ROOT, stderr=subprocess.PIPE, timeout=60, **{"stdout": subprocess.PIPE, **options}
    )


def test_flags_change_settings():
    settings = parsed("--ppo.updates=3", "--ppo.learning_rate", "1e-4", "--ppo.no-whiten-advantages", "--overwrite")
    expected = dataclasses.replace(config.PPO(), updates=3, learning_rate=1e-4, whiten_advantages=False)
    assert settings == config.PPOTraining(ppo=expected, overwrite=True)


def test_no_flags_give_the_default_preset():
    assert parsed() == config.preset(config.PPOTraining, "flan-t5")


@pytest.mark.parametrize("argv", [["--preset", "demo"], ["--preset=demo"]])
def test_preset_sets_the_other_defaults(argv):
    assert parsed(*argv) == config.preset(config.PPOTraining, "demo")
    assert (
        parsed("--ppo.updates", "3", *argv).ppo.learning_rate
        == config.preset(config.PPOTraining, "demo").ppo.learning_rate
    )


def test_none_takes_a_setting_away():
    assert parsed("--ppo.score-clip", "None").ppo.score_clip is None


def test_several_values():
    assert parsed("--checkpoint", "a", "b", stage=config.EvaluationStage).checkpoint == ("a", "b")


def test_backslash_n_in_the_prompt_is_a_line_break():
    prompt = parsed("--data.prompt", r"Sum up:\n{dialogue}\n", stage=config.Preparation).data.prompt
    assert prompt == "Sum up:\n{dialogue}\n"


@pytest.mark.parametrize(
    "argv, line",
    [
        (["--ppo.learning-rate", "abc"], "--ppo.learning-rate='abc': must be a number"),
        (["--ppo.score-clip", "abc"], "--ppo.score-clip='abc': must be a number"),
        (["--ppo.updates", "1.5"], "--ppo.updates='1.5': must be a whole number"),
        (["--seed", ""], "--seed='': must be a whole number"),
        (["--threads=\x1b[31m"], r"--threads='\x1b[31m': must be a whole number"),
        (["--ppo.learning-rate"], "--ppo.learning-rate: a value is missing"),
        (["--run", "--seed", "3"], "--run: a value is missing"),
        (["--preset"], "--preset: a value is missing"),
        (["--preset", "--seed", "3"], "--preset: a value is missing"),
        (["--preset", "gpt"], "--preset=gpt: choose flan-t5 or demo"),
        (["--preset="], "--preset=: choose flan-t5 or demo"),
        (["--reward.signal", "softmax"], "--reward.signal=softmax: choose logit or logprob or probability"),
        (
            ["--ppo.learnin-rate", "3"],
            "--ppo.learnin-rate: no such option; did you mean --ppo.learning-rate?",
        ),
        (["--updates", "3"], "--updates: no such option; did you mean --ppo.updates?"),
        (["--rewards.label=x"], "--rewards.label: no such option; did you mean --reward.label?"),
        (["--quux"], "--quux: no such option; see --help"),
        (["-x"], "-x: no such option; see --help"),
        (["demo"], "unexpected argument 'demo'; every setting is an option, see --help"),
        (["--overwrite", "true"], "unexpected argument 'true'; every setting is an option, see --help"),
        (["--", "--seed", "1"], "unexpected argument '--'; every setting is an option, see --help"),
        (["--seed", "1", "--seed=2"], "--seed is given twice; keep one of them"),
        (["--overwrite", "--no-overwrite"], "--overwrite is given twice; keep one of them"),
        (["--ppo.lora_r", "1", "--ppo.lora-r", "2"], "--ppo.lora-r is given twice; keep one of them"),
        (["--ppo.gamma", "2"], "--ppo.gamma=2.0: must lie in (0, 1]"),
        (["--run", "a b"], "--run=a b: use letters, digits, '.', '_' and '-' only, at most 100 of them"),
    ],
)
def test_a_wrong_argument_is_told_in_one_line(argv, line, capsys):
    assert cli.run(config.PPOTraining, lambda settings: pytest.fail("ran"), argv) == 2
    assert capsys.readouterr() == ("", f"error: {line}\n")


@pytest.mark.parametrize("returned, code", [(None, 0), (0, 0), (3, 3)])
def test_main_gives_the_exit_code(returned, code):
    assert cli.run(config.PPOTraining, lambda settings: returned, []) == code


def full_disk(settings):
    raise OSError(errno.ENOSPC, "No space left on device", "some/file")


def forbidden(settings):
    raise PermissionError(errno.EACCES, "Permission denied", "some/file")


def terminated(settings):
    os.kill(os.getpid(), signal.SIGTERM)


def wrong(settings):
    raise UserError("some/file: is wrong\nmake it \x1b[31mright")


def interrupted(settings):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "main, code, line",
    [
        (wrong, 2, "error: some/file: is wrong make it right"),
        (interrupted, 130, "interrupted: nothing on disk is lost; type the same command again"),
        (full_disk, 2, "error: some/file: No space left on device; free some space"),
        (forbidden, 2, "error: some/file: Permission denied; check its permissions"),
        (terminated, 143, "terminated: nothing on disk is lost; type the same command again"),
    ],
)
def test_an_expected_error_is_one_line(main, code, line, capsys):
    before = signal.getsignal(signal.SIGTERM)
    assert cli.run(config.PPOTraining, main, []) == code
    assert capsys.readouterr().err == f"{line}\n"
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("main, code, longest", [(interrupted, 130, 2), (terminated, 143, 2), (wrong, 2, 60)])
def test_a_process_without_the_word_waits_to_be_ended_only_where_no_signal_came(
    main, code, longest, monkeypatch, capsys
):
    waited = []
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(cli.time, "sleep", waited.append)
    assert cli.run(config.PPOTraining, main, []) == code
    assert capsys.readouterr().err == "" and longest / 4 < waited[0] <= longest


def test_a_failure_is_told_though_a_launcher_ends_the_process_for_it(monkeypatch, capsys):
    def failed(settings):
        raise UserError("it is wrong")

    about = cli.printable
    monkeypatch.setattr(cli, "printable", lambda line: (os.kill(os.getpid(), signal.SIGTERM), about(line))[1])
    before = signal.getsignal(signal.SIGTERM)
    assert cli.run(config.PPOTraining, failed, []) == 2
    assert capsys.readouterr().err == "error: it is wrong\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_closed_outputs_are_no_error(monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert cli.run(config.PPOTraining, lambda settings: print("done"), []) == 0
    assert cli.run(config.PPOTraining, wrong, []) == 2


def test_what_was_to_be_replaced_starts_over(capsys):
    assert cli.run(config.PPOTraining, interrupted, ["--overwrite"]) == 130
    assert capsys.readouterr().err == "interrupted: nothing on disk is lost; the same command starts it over\n"


def test_a_stage_tells_of_its_own_files_alone():
    """Stages that follow each other in one process write what each would write alone."""
    found = []

    def stage(settings):
        found.append(notes.for_manifest())
        notes.pickles["model/pytorch_model.bin"] = "0" * 64

    assert [cli.run(config.Preparation, stage, []) for _ in range(2)] == [0, 0]
    assert found == [{}, {}]


@pytest.mark.parametrize("bug", [ZeroDivisionError, FileNotFoundError, BrokenPipeError])
def test_a_bug_keeps_its_traceback(bug):
    def main(settings):
        raise bug

    with pytest.raises(bug):
        cli.run(config.PPOTraining, main, [])


def flags_of(settings: object, prefix: str = "--") -> list[str]:
    found = []
    for setting in dataclasses.fields(settings):
        value, name = getattr(settings, setting.name), f"{prefix}{setting.name}".replace("_", "-")
        found += flags_of(value, f"{name}.") if dataclasses.is_dataclass(value) else [name]
    return found


@pytest.mark.parametrize("script", config.STAGES)
def test_help_of_each_stage_fits_a_terminal_without_torch(script):
    """As typed: the script's own process, its own description, 80 columns."""
    program = "import runpy, sys\nsys.argv = sys.argv[1:]\ntry:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
    program += "finally:\n    print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program, script, "--help"], cwd=ROOT, capture_output=True, timeout=60)
    lines = done.stdout.decode().splitlines()
    assert (done.returncode, done.stderr, lines.pop()) == (0, b"", "[]")
    assert lines[0] == f"usage: python {script} [--flag value ...]"
    assert [line for line in lines if len(line) > 80] == []
    assert f"  python {script} --preset demo" in lines
    settings = config.STAGES[script]()
    assert [name for name in flags_of(settings) if not any(line.startswith(f"  {name}") for line in lines)] == []


@pytest.mark.parametrize("stage", config.STAGES.values())
def test_every_flag_is_described_and_parsed(stage):
    """What help offers is what the parser takes: names, values and switches."""
    settings = config.preset(stage, "demo")
    assert sorted(flags.flag_names(settings)) == sorted([flags.CONFIG.name, *flags_of(settings)])
    for group in flags.groups(settings):
        for flag in group.flags:
            assert flag.description, f"{flag.name} has no docstring in config.py"
            if flag == flags.CONFIG:
                continue
            if flag.kind:
                argv = [flag.name, *(["a", "b"] if flag.kind.startswith("[") else [flag.default])]
            else:
                argv = [flag.name if flag.default == "off" else flag.off]
            try:
                parsing.parse(stage, ["--preset", "demo", *argv] if flag.name != "--preset" else argv)
            except UserError as refusal:
                assert "no such option" not in str(refusal) and "missing" not in str(refusal)


def test_help_follows_the_width_of_the_terminal(monkeypatch):
    text = help_text(config.PPOTraining(), "x.py")
    monkeypatch.setenv("COLUMNS", "60")
    narrow = help_text(config.PPOTraining(), "x.py")
    assert len(narrow.splitlines()) > len(text.splitlines())
    assert narrow.split() == text.split()


def test_help_has_the_stage_s_own_description(capsys):
    cli.run(config.PPOTraining, lambda settings: None, ["--help"], description="Teach it manners.")
    assert "Teach it manners." in capsys.readouterr().out


def test_help_shows_the_defaults_of_the_preset(capsys):
    cli.run(config.PPOTraining, lambda settings: None, ["--preset", "demo", "--help"])
    assert "demo:reward" in " ".join(capsys.readouterr().out.split())


def test_output_is_utf8_in_every_locale():
    environment = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    done = in_a_process("print('caf\\u00e9 \\udcff')", env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"caf\xc3\xa9 \\udcff\n", b"")


@pytest.mark.parametrize("main", ["for _ in range(100000): print('a line')", "print('a line')"])
def test_a_reader_that_is_gone_is_silent(main):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = in_a_process(main, stdout=writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_output_to_a_full_file_is_told(tmp_path):
    limit = f"import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (0, {resource.RLIM_INFINITY}))"
    with open(tmp_path / "out", "wb") as out:
        done = in_a_process(f"{limit}\nprint('a line')", stdout=out)
    assert done.returncode == 2
    assert done.stderr == b"error: output: File too large; raise the limit on file sizes (ulimit -f)\n"


@pytest.mark.parametrize("script", ["data_preparation.py", "training_lora.py", "training_ppo.py", "evaluate_ppo.py"])
def test_a_python_without_the_packages_is_told_so_in_one_line(script):
    done = subprocess.run([sys.executable, "-S", script, "--help"], cwd=ROOT, capture_output=True, timeout=60)
    start, package, end = done.stderr.decode().split("'")
    assert done.returncode == 2 and done.stdout == b""
    assert start == f"error: {sys.executable} lacks the package " and package in (ROOT / "requirements.txt").read_text()
    assert end.endswith("or run: python -m pip install -r requirements.txt\n")


def test_a_module_of_our_own_that_is_missing_is_a_bug():
    done = in_a_process("import detox.no_such_room")
    assert done.returncode == 1 and b"No module named 'detox.no_such_room'" in done.stderr


def test_workers_of_a_pool_end_silently():
    main = "from multiprocessing import get_context\nwith get_context('fork').Pool(2) as pool:\n"
    main += "    print(pool.map(abs, [-1, 2]))"
    done = in_a_process(main)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"[1, 2]\n", b"")


def test_a_forked_worker_leaves_sigterm_to_the_system():
    """A handler of Python's can miss it just before a wait, and the pool would wait for that worker without end."""
    main = """
import signal
def look():
    return signal.getsignal(signal.SIGTERM), signal.SIGTERM in signal.pthread_sigmask(signal.SIG_BLOCK, [])
before = look()
if not (child := os.fork()):
    os._exit(0 if look() == (signal.SIG_DFL, False) else 1)
assert os.waitpid(child, 0)[1] == 0 and look() == before != (signal.SIG_DFL, False)
"""
    done = in_a_process(main)
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    "number, code, word", [(signal.SIGINT, 130, b"interrupted"), (signal.SIGTERM, 143, b"terminated")]
)
def test_a_signal_that_comes_while_garbage_is_collected_is_obeyed(number, code, word):
    main = f"""
import gc, signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
class Group:
    def __del__(self):
        signal.raise_signal({int(number)})
group = Group()
group.itself = group
del group
gc.collect()
print("collected", flush=True)
time.sleep(30)
"""
    done = in_a_process(main)
    assert (done.returncode, done.stdout) == (code, b"collected\n")
    assert done.stderr == word + b": nothing on disk is lost; type the same command again\n"


def test_sigterm_cleans_up_and_exits_143(tmp_path):
    script = (
        "import sys, time, config\nfrom pathlib import Path\nfrom detox.stage import artifacts, cli\n"
        "def main(settings):\n"
        "    target = Path(sys.argv[1], 'run', 'ppo')\n"
        "    with artifacts.publish(target, stage='training_ppo', settings=settings):\n"
        "        print('writing', flush=True)\n"
        "        time.sleep(60)\n"
        "sys.exit(cli.run(config.PPOTraining, main, []))"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"writing\n"
        process.terminate()
        told = b"terminated: nothing on disk is lost; type the same command again\n"
        assert process.communicate(timeout=30) == (b"", told)
    assert process.returncode == 143
    assert list(tmp_path.iterdir()) == []
