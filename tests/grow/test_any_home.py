"""A home may be any folder's name: spaces, other scripts, signs that mean something to URLs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import registry_toys

from helpers import processes, registry, store
from helpers.records import WorkbookError

NAMES = ["mein Büro", "実験 #1", "50%20?a=b", 'it\'s "quoted" & $HOME']


@pytest.fixture(params=NAMES)
def odd_home(request, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path / request.param))
    return store.home()


def test_a_tilde_is_the_users_own_folder_where_no_shell_has_spelt_it_out(monkeypatch):
    monkeypatch.setenv("HOME", "/someone")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("WORKBOOK_HOME", "~/runs")  # as a crontab or a unit passes it on
    monkeypatch.setenv("WORKBOOK_CACHE", "~/models")
    assert [str(store.home()), str(store.cache())] == ["/someone/runs", "/someone/models"]
    monkeypatch.delenv("WORKBOOK_CACHE")
    assert str(store.cache()) == "/someone/.cache/fine-tuning-workbook"


def test_a_registry_keeps_and_finds_a_version_there(odd_home):
    registry_toys.candidate("v1")
    assert [known.id for known in registry.list_versions()] == ["v1"]
    assert (odd_home / "registry.db").exists()


@pytest.mark.parametrize("odd_home", NAMES[1:2], indirect=True)
def test_the_lock_is_one_for_all_processes_there(odd_home):
    program = (
        "from helpers import store\n"
        "try:\n    with store.lock(): print('free')\n"
        "except Exception as error: print(error.exit_code)"
    )

    def ask() -> str:
        environment = processes.child_environment()
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True
        )
        return done.stdout.strip()

    with store.lock():
        with store.lock():  # again in this process
            pass
        assert ask() == "75"
    assert ask() == "free"


def test_a_run_goes_through_there(toys, driver, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path / NAMES[0]))
    process = driver("run", str(tmp_path / "toy.yaml"), "--run-id", "r", "--only", "04", "--json")
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert json.loads(out)["status"] == "finished"
    assert (tmp_path / NAMES[0] / "runs" / "r" / "evaluation.json").exists()


def test_a_home_that_cannot_be_made_is_said_so(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(WorkbookError, match="set WORKBOOK_HOME"), store.lock():
        pass


def test_a_container_s_limit_counts_where_it_is_less_than_the_machine_has(tmp_path):
    everything = processes.free_memory(tmp_path / "no cgroup")
    (tmp_path / "memory.current").write_text("300000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 100000000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert processes.free_memory(tmp_path) == pytest.approx(everything, rel=0.2)
    (tmp_path / "memory.max").write_text("500000000\n")
    assert processes.free_memory(tmp_path) == 300_000_000
    (tmp_path / "memory.max").write_text("100000000\n")
    assert processes.free_memory(tmp_path) == 0
