"""The commit of this program."""

from __future__ import annotations

import os
import shutil
import subprocess

from tests.stage.artefacts import ROOT, run_python


def test_git_rev_is_the_program_s_own_or_null(tmp_path):
    program = tmp_path / "project" / "program"
    (program / "detox" / "stage").mkdir(parents=True)
    for name in ("detox/__init__.py", "detox/stage/__init__.py", "detox/stage/versions.py"):
        shutil.copy(ROOT / name, program / name)

    def git(folder, *arguments):
        identity = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
        done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def git_rev(**options):
        done = run_python("from detox.stage import versions; print(versions.git_rev())", cwd=program, **options)
        assert done.stderr == ""
        return done.stdout.strip()

    assert git_rev() == "None"
    git(tmp_path / "project", "init", "-q")
    git(tmp_path / "project", "commit", "-q", "--allow-empty", "-m", "another project's")
    assert git_rev() == "None"
    git(program, "init", "-q")
    assert git_rev() == "None"
    git(program, "commit", "-q", "--allow-empty", "-m", "ours")
    assert git_rev() == git(program, "rev-parse", "HEAD")
    assert git_rev(env={"PATH": ""}) == "None"
    other = {"GIT_DIR": str(tmp_path / "project" / ".git"), "PATH": os.environ["PATH"]}
    assert git_rev(env=other) == git(program, "rev-parse", "HEAD"), "a hook of another repository runs it"
    git(program, "add", "detox/__init__.py")
    assert git_rev() == f"{git(program, 'rev-parse', 'HEAD')}-dirty"
    (program / ".git" / "index").write_bytes(b"no index")
    assert git_rev() == git(program, "rev-parse", "HEAD"), "what was changed can't be told"
