"""The package: what is installed, beside anybody's own modules."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import detox

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
IMPORT_ALL = """
import sys
from importlib import import_module
from pkgutil import walk_packages
sys.path.insert(1, sys.argv[1])
import detox
for module in walk_packages(detox.__path__, "detox."):
    if module.name not in ("detox.demo.build", "detox.scripts"):  # a script
        import_module(module.name)
print("config" in sys.modules)
"""


def test_it_is_imported_next_to_anybodys_own_config(tmp_path):
    (tmp_path / "config.py").write_text("raise SystemExit('not the settings of the stages')\n")
    command = [sys.executable, "-c", IMPORT_ALL, str(ROOT)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_every_wing_is_installed():
    folders = {path.parent.relative_to(ROOT) for path in ROOT.glob("detox/**/__init__.py")}
    packages = {".".join(folder.parts) for folder in folders}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == packages | {"detox.scripts"}


def test_its_commands_are_functions():
    for target in PROJECT["project"]["scripts"].values():
        module, _, name = target.partition(":")
        assert callable(getattr(import_module(module), name))


def test_its_names_are_there():
    assert all(getattr(detox, name) is not None for name in detox.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = detox.nothing


@pytest.mark.parametrize("name, script", [("prepare", "data_preparation.py"), ("evaluate", "evaluate_ppo.py")])
def test_a_command_runs_its_script(tmp_path, name, script):
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from detox import entry_points; entry_points.{name}()"
    done = subprocess.run([sys.executable, "-c", program, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and f"usage: detox-{name} " in done.stdout, done.stderr
