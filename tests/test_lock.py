"""requirements.lock: a version of everything, the same that requirements.txt asks for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


def requirements(name: str) -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [Requirement(line) for line in lines if line]


def versions(found: list[Requirement], python: str, system: str) -> dict[str, str]:
    """Return the version of each package that these lines give one Python on one system."""
    environment = default_environment() | {
        "python_version": python,
        "python_full_version": f"{python}.1",
        "sys_platform": system,
        "platform_system": {"linux": "Linux", "darwin": "Darwin"}[system],
    }
    chosen = [one for one in found if one.marker is None or one.marker.evaluate(environment)]
    names = [re.sub(r"[-_.]+", "-", one.name).lower() for one in chosen]
    assert len(set(names)) == len(names), "a package has two versions"
    return dict(zip(names, (str(one.specifier) for one in chosen)))


@pytest.mark.parametrize("system", ["linux", "darwin"])
@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_has_the_versions_of_the_requirements_and_more(python, system):
    locked = versions(requirements("requirements.lock"), python, system)
    asked = versions([*requirements("requirements.txt"), *requirements("requirements-dev.txt")], python, system)
    assert {name: locked.get(name) for name in asked} == asked, "run `make lock`"
    assert len(locked) > 2 * len(asked)
    assert all(re.fullmatch(r"==[\w.]+", version) for version in locked.values())
