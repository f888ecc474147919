"""`python -m tests.audit [--strict]`: ask the package index which packages are known to be vulnerable.

Asked about are the pins, for every Python, and what is installed beside this interpreter. The exit code is 1 where one
is vulnerable; with --strict also where one could not be checked, which is always said: an index that is out of reach,
or that does not know a package, has not called it safe.
"""

from __future__ import annotations

import http.client
import importlib.metadata
import json
import re
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
INDEX = "https://pypi.org/pypi"
SECONDS = 10.0
_PIN = re.compile(r"^([\w.-]+)==([\w.!]+)", re.MULTILINE)

ACCEPTED: dict[str, str] = {}
"""Vulnerabilities that do not touch this project, by their id: the reason."""


class Package(NamedTuple):
    """A version of a distribution; without the suffix of a build, such as `+cpu`, which the index does not know."""

    name: str
    version: str


class Unchecked(NamedTuple):
    """Why nothing is known about a package."""

    reason: str
    reached: bool = True


def pinned(paths: Iterable[Path]) -> set[Package]:
    """Return what files of requirements pin."""
    return {_package(*match.groups()) for path in paths for match in _PIN.finditer(path.read_text(encoding="utf-8"))}


def installed() -> set[Package]:
    """Return what this interpreter finds installed."""
    there = importlib.metadata.distributions()
    return {_package(found.metadata["Name"], found.version) for found in there if found.metadata["Name"]}


def _package(name: str, version: str) -> Package:
    return Package(re.sub(r"[-_.]+", "-", name).lower(), version.partition("+")[0])


def ask(package: Package, index: str = INDEX) -> list[str] | Unchecked:
    """Return the known vulnerabilities of a package, each as `id (other names), fixed in versions`."""
    url = f"{index}/{package.name}/{package.version}/json"
    try:
        with urllib.request.urlopen(url, timeout=SECONDS) as answer:  # noqa: S310 - an address of the index
            content = json.load(answer)
        found = [entry for entry in content["vulnerabilities"] if not entry.get("withdrawn")]
        return [_described(entry) for entry in found if not ACCEPTED.keys() & {entry["id"], *entry["aliases"]}]
    except urllib.error.HTTPError as error:
        return Unchecked("the index does not know it" if error.code == 404 else f"the index answers {error.code}")
    except (OSError, http.client.HTTPException) as error:
        return Unchecked(f"the index can't be reached ({getattr(error, 'reason', None) or error})", reached=False)
    except (ValueError, KeyError, TypeError, AttributeError):
        return Unchecked("the index says nothing of vulnerabilities")


def _described(entry: dict) -> str:
    names = f" ({', '.join(entry['aliases'])})" if entry["aliases"] else ""
    return f"{entry['id']}{names}, fixed in {' or '.join(entry['fixed_in']) or 'no version yet'}"


def audit(packages: Iterable[Package], index: str = INDEX, strict: bool = False) -> int:
    """Print what is known of each package, in three parts, and return the exit code."""
    first, *rest = packages = sorted(packages)
    answer = ask(first, index)
    if isinstance(answer, Unchecked) and not answer.reached:
        answers = [answer] * len(packages)  # at once, instead of a time-out for each
    else:
        with ThreadPoolExecutor(8) as pool:
            answers = [answer, *pool.map(lambda package: ask(package, index), rest)]
    vulnerable, unchecked, safe = 0, {}, 0
    for package, answer in zip(packages, answers, strict=True):
        if isinstance(answer, Unchecked):
            unchecked.setdefault(answer.reason, []).append("==".join(package))
        elif answer:
            vulnerable += 1
            print(*(f"vulnerable: {package.name} {package.version}: {one}" for one in answer), sep="\n")
        else:
            safe += 1
    for reason, names in unchecked.items():
        print(f"not checked: {index}: {reason}: {', '.join(names) if len(names) < len(packages) else 'any package'}")
    print(f"{vulnerable} vulnerable, {sum(map(len, unchecked.values()))} not checked, {safe} with nothing known")
    return int(vulnerable > 0 or (strict and bool(unchecked)))


if __name__ == "__main__":
    sys.exit(audit(pinned(ROOT.glob("requirements*.txt")) | installed(), strict="--strict" in sys.argv[1:]))
