"""The vulnerability check tells apart what is vulnerable, what is not known to be, and what it could not ask about."""

from __future__ import annotations

import importlib.metadata
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests import audit
from tests.audit import Package

FLAW = {
    "id": "PYSEC-2024-60",
    "aliases": ["CVE-2024-3651"],
    "fixed_in": ["3.7"],
    "details": "…",
    "withdrawn": None,
}
KNOWN = {
    "/pypi/idna/3.6/json": (200, {"vulnerabilities": [FLAW]}),
    "/pypi/unfixed/1/json": (200, {"vulnerabilities": [FLAW | {"id": "PYSEC-1", "aliases": [], "fixed_in": []}]}),
    "/pypi/withdrawn/1/json": (200, {"vulnerabilities": [FLAW | {"withdrawn": "2024-05-01T00:00:00Z"}]}),
    "/pypi/torch/2.0/json": (200, {"vulnerabilities": []}),
    "/pypi/silent/1/json": (200, {"info": {}}),
    "/pypi/odd/1/json": (200, {"vulnerabilities": [3]}),
    "/pypi/busy/1/json": (503, {}),
}


@pytest.fixture
def index():
    """A package index on the loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, content = KNOWN.get(self.path, (404, {}))
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/pypi"
        server.shutdown()


def test_vulnerable(index, capsys):
    packages = {Package("idna", "3.6"), Package("unfixed", "1"), Package("torch", "2.0")}
    assert audit.audit(packages, index) == 1
    assert capsys.readouterr().out.splitlines() == [
        "vulnerable: idna 3.6: PYSEC-2024-60 (CVE-2024-3651), fixed in 3.7",
        "vulnerable: unfixed 1: PYSEC-1, fixed in no version yet",
        "2 vulnerable, 0 not checked, 1 with nothing known",
    ]


def test_nothing_known(index, capsys):
    assert audit.audit({Package("torch", "2.0"), Package("withdrawn", "1")}, index, strict=True) == 0
    assert capsys.readouterr().out == "0 vulnerable, 0 not checked, 2 with nothing known\n"


@pytest.mark.parametrize("name", ["CVE-2024-3651", "PYSEC-2024-60"])
def test_accepted_by_any_of_its_names(index, monkeypatch, name):
    monkeypatch.setitem(audit.ACCEPTED, name, "only of what a stranger names")
    assert audit.audit({Package("idna", "3.6")}, index) == 0


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("private", "does not know it"),
        ("busy", "answers 503"),
        ("silent", "says nothing of vulnerabilities"),
        ("odd", "says nothing of vulnerabilities"),
    ],
)
def test_what_was_not_checked_is_not_called_safe(index, capsys, name, reason):
    packages = {Package("torch", "2.0"), Package(name, "1")}
    assert [audit.audit(packages, index), audit.audit(packages, index, strict=True)] == [0, 1]
    lines = capsys.readouterr().out.splitlines()[:2]
    assert lines[0].startswith("not checked: ") and lines[0].endswith(f"{reason}: {name}==1")
    assert lines[1] == "0 vulnerable, 1 not checked, 1 with nothing known"


def test_out_of_reach_is_said_once(capsys):
    nowhere, packages = "http://127.0.0.1:9/pypi", {Package("idna", "3.6"), Package("torch", "2.0")}
    assert [audit.audit(packages, nowhere), audit.audit(packages, nowhere, strict=True)] == [0, 1]
    lines = capsys.readouterr().out.splitlines()[:2]
    assert lines[0].startswith(f"not checked: {nowhere}: the index can't be reached (")
    assert lines[0].endswith("): any package") and lines[1] == "0 vulnerable, 2 not checked, 0 with nothing known"


def test_pins_of_every_python_and_what_is_installed():
    pins = audit.pinned(audit.ROOT.glob("requirements*.txt"))
    assert {name for name, _ in pins} >= {"torch", "rouge-score", "huggingface-hub", "pytest"}
    assert len([version for name, version in pins if name == "transformers"]) == 2
    here = audit.installed()
    assert Package("torch", importlib.metadata.version("torch").partition("+")[0]) in here
    assert not [version for _, version in here if "+" in version]
