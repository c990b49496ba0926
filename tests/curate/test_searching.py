import subprocess
import sys

import pytest

from helpers import redaction, store
from helpers.curate import searching

TEXTS = [
    "nothing here",
    "write to mara@example.com",
    "AKIA" + "4XKQ7ZJ2LMN3PQRT",
    "call +44 7700 900123 or a@example.org",
]


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr(searching, "AT_LEAST", 1)


def test_two_children_find_what_one_process_finds(always, monkeypatch):
    want = [(redaction.find_personal_data(t), redaction.find_secrets(t)) for t in TEXTS]
    monkeypatch.setattr(searching, "search_text", None)  # so that every finding is a child's
    look_up = searching.search_ahead(TEXTS)
    assert [look_up(text) for text in TEXTS] == want


def test_without_children_the_texts_are_searched_here(always, monkeypatch):
    for command in (["/no/such/program"], [sys.executable, "-c", "raise SystemExit(3)"]):
        monkeypatch.setattr(searching, "_CHILD", command)
        assert searching.search_ahead(TEXTS)(TEXTS[1])[0][0].kind == "EMAIL_ADDRESS"


def test_it_needs_no_main_guard(tmp_path):
    program = tmp_path / "script.py"
    program.write_text("""
print("begun")
from helpers.curate import searching
searching.AT_LEAST = 1
print(searching.search_ahead(["write to mara@example.com"])("write to mara@example.com")[0][0].kind)
""")
    env = {"PYTHONPATH": str(store.PROJECT), "PATH": ""}
    done = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, env=env, timeout=120
    )
    assert done.stdout.split() == ["begun", "EMAIL_ADDRESS"], done.stdout + done.stderr
