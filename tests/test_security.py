"""Nothing is let in: no pickles, no code of others, no text run as code; every requirement pinned."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted(
    path for pattern in ("*.py", "detox/**/*.py", "benchmarks/**/*.py", "tests/**/*.py") for path in ROOT.glob(pattern)
)
SHIPPED = [path for path in SOURCES if "tests" not in path.relative_to(ROOT).parts]
RUNS_WHAT_ITS_USER_NAMES = {"detox/scoring/reward_terms.py": ["exec", "compile"]}  # --reward.extra file.py:function
LOADERS = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}


def forbidden(tree: ast.AST) -> list[str]:
    """Return the places that would run what a file or a text says."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            found += [f"imports {name}" for name in names if name.partition(".")[0] in LOADERS]
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if called in ("eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load"):
            found.append(called)
        if called.endswith("torch.load") and options.get("weights_only") != "True":
            found.append(called)
        if options.get("shell", "False") != "False":
            found.append("shell=True")
        if options.get("trust_remote_code", "False") != "False":
            found.append("trust_remote_code")
        if options.get("allow_pickle", "False") != "False":
            found.append("allow_pickle")
        if options.get("use_safetensors", "True") != "True" and options.get("weights_only") != "True":
            found.append("use_safetensors")
    return found


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from dill import loads",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "eval(text)",
        "exec(text)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=settings.trust)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(text, shell=True)",
        "AutoModel.from_pretrained(name, use_safetensors=None)",
    ],
)
def test_what_is_forbidden_is_seen(line):
    assert forbidden(ast.parse(line))


def test_what_is_allowed_is_not():
    allowed = "torch.load(path, weights_only=True)\nmodel.eval()\nload(name, trust_remote_code=False)\nimport json"
    assert not forbidden(ast.parse(allowed))


def test_no_file_runs_what_others_wrote():
    assert len(SHIPPED) > 30
    found = {str(path.relative_to(ROOT)): forbidden(ast.parse(path.read_text())) for path in SHIPPED}
    assert {path: places for path, places in found.items() if places} == RUNS_WHAT_ITS_USER_NAMES


def requirements(name: str) -> dict[str, list[str]]:
    """Return the versions of a file of requirements; anything but an exact version is an error."""
    pins: dict[str, list[str]] = {}
    for line in (ROOT / name).read_text().splitlines():
        line = line.partition("#")[0].strip()
        if line:
            match = re.fullmatch(r"([A-Za-z0-9_.-]+)==(\d[\w.]*)(; *python_version [<>]=? \"[\d.]+\")?", line)
            assert match, f"{name}: {line!r} is not pinned to one version"
            pins.setdefault(canonical(match[1]), []).append(match[2])
    return pins


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(paths: list[Path]) -> set[str]:
    """Return the distributions that files import and that are not of this project."""
    own = {path.stem for path in ROOT.glob("*.py")} | {"detox", "docs", "tests", "benchmarks"}
    modules = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules.add(node.module.partition(".")[0])
    siblings = {path.stem for path in paths}
    providers = importlib.metadata.packages_distributions()
    foreign = modules - own - siblings - set(sys.stdlib_module_names) - {"__future__"}
    return {canonical(providers.get(module, [module])[0]) for module in foreign}


INDIRECT = {
    "pyarrow": "datasets",
    "httpx": "huggingface-hub",
    "nltk": "rouge-score",
    "regex": "transformers",
    "nbformat": "nbclient",
    "tomli": "mypy",
    "packaging": "transformers",
}
OPTIONAL = {"bert-score"}


def test_every_import_is_pinned():
    """A package that another pinned one brings along may be imported where it is named here."""
    pins = requirements("requirements.txt")
    for name in imported(SHIPPED) - OPTIONAL:
        assert name in pins or INDIRECT.get(name) in pins, name
    both = pins | requirements("requirements-dev.txt")
    for name in imported(SOURCES) - OPTIONAL - {"tomllib"}:  # Python's own from 3.11 on
        assert name in both or INDIRECT.get(name) in both, name
