"""Line 19: the command line with a closed or full stdout or stderr, and homes of odd names."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

import pytest
from papermill.parameterize import parameterize_path

from helpers import cli, registry, store
from helpers.run import engine

CASES = {
    "runs >&- 2>&-": 0,
    "nope 2> /dev/full": 2,
    "runs >&-": 0,
    "runs > /dev/full": 6,
    "runs --json > /dev/full": 6,
    "schedule": 2,
    "gc --keep -1 2>&-": 2,
    "gc --keep -1 2> /dev/full": 2,
    "gc --keep -1 > /dev/full": 2,
}


@pytest.mark.parametrize("arguments", CASES)
def test_line_19_closed_and_full_outputs_have_their_exit_codes(home, arguments):
    command = f"exec {sys.executable} -m helpers.cli {arguments}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=store.PROJECT,
        env=os.environ | {"WORKBOOK_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (CASES[arguments], False), done.stderr


FILES = {
    "empty.csv": b"",
    "table.csv": b"a,b\n1,2\n",
    "noise.jsonl": bytes(range(256)) * 9,
    "noise.parquet": bytes(range(255)) * 9,
    "object.json": b"{}",
    "list.json": b"[1]",
    "text.yaml": b"x: [\n",
    "number.yaml": b"task: 5\n",
    "list.yaml": b"- a\n",
    "bytes.yaml": b"\xff\xfe",
}
REFUSED = [
    "new table.csv",
    "new /proc/x",
    f"new {'x' * 300}",
    "new made --from nope.csv",
    "new made --from folder",
    "new made --from empty.csv",
    "new made --from noise.jsonl",
    "new made --from noise.parquet",
    "new made --from table.csv --input x --output y",
    "learner /proc/x",
    "check nope",
    "run nope",
    "run folder",
    "run text.yaml",
    "run number.yaml",
    "run list.yaml",
    "run bytes.yaml",
    "run smoke --only 99",
    "run smoke --run-id ../x",
    "run smoke -p nope=1",
    "run smoke -p seed=[1",
    "run smoke -p seed=99999999999999999999",
    "run smoke -p max_cost_usd=.nan",
    "run smoke --max-cost-usd inf",
    "rate ../x",
    "export nope --form merged",
    "schedule smoke --cron 'a b c d e'",
    "schedule smoke --cron '0 0 31 2 *'",
    "schedule --remove ../../x",
    "gc --keep -1",
    "route nope",
    "route support_triage --canary nope",
    "logs import --format nope --task support_triage table.csv",
    "logs import --format openai --task support_triage nope",
    "logs check nope",
    "logs check folder",
    "registry show nope",
    "registry promote nope --to production",
    "registry rollback nope",
    "registry backup folder",
    "registry backup /proc/x",
    "registry restore nope",
    "registry restore list.json",
    "registry restore noise.jsonl",
    "practice-api --port 99999",
    "practice-api --host 8.8.8.8",
    "practice-api --scenario nope",
    "practice-api --state table.csv --port 0",
    "practice-api --state /proc/x --port 0",
]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


@pytest.mark.parametrize("arguments", REFUSED)
def test_line_19_what_cannot_be_done_is_exit_2_and_one_message(home, place, arguments, capsys):
    before = {path: path.read_bytes() for path in place.iterdir() if path.is_file()}
    assert cli.main(shlex.split(arguments)) == 2
    output = capsys.readouterr()
    assert output.err.startswith(("workbook: ", "practice-api: ")) and "Traceback" not in output.err
    assert before == {path: path.read_bytes() for path in place.iterdir() if path.is_file()}


@pytest.mark.parametrize("odd_home", ["/proc/x", "/dev/full", "table.csv", "x" * 300])
@pytest.mark.parametrize("arguments", ["run smoke --only 00", "gc --keep 1", "registry list"])
def test_line_19_a_home_that_cannot_be_written_is_exit_2(place, monkeypatch, odd_home, arguments):
    monkeypatch.setenv("WORKBOOK_HOME", odd_home)
    assert cli.main(shlex.split(arguments)) in (0, 2)  # 0: an empty list


URLS = ["nonsense", "sqlite:////proc/x/y.db", "postgresql://[", "mysql://x", "sqlite:///table.csv"]
URLS += ["postgresql://u:geheim12@127.0.0.1:1/x", "postgresql://u:p@geheim12@127.0.0.1:1/x"]


@pytest.mark.parametrize("url", URLS)
def test_line_19_an_odd_database_is_exit_2_without_its_password(
    home, place, monkeypatch, url, capsys
):
    monkeypatch.setenv("WORKBOOK_DATABASE_URL", url)
    assert cli.main(["registry", "list"]) == 2
    assert "geheim12" not in capsys.readouterr().err


@pytest.mark.parametrize("arguments", ["registry list", "run smoke --only 00"])
def test_line_19_too_small_an_address_space_is_exit_6(home, arguments):
    done = subprocess.run(
        ["bash", "-c", f"ulimit -v 60000; exec {sys.executable} -m helpers.cli {arguments}"],
        cwd=store.PROJECT,
        env=os.environ | {"WORKBOOK_HOME": str(home), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, "Traceback" in done.stderr) == (6, False), done.stderr


def test_line_19_no_control_character_reaches_a_terminal():
    assert store.printable("a\x1b[2Jb\x07\u202ec\r\x9b\n\td") == "a�[2Jb��c��\n\td"


@pytest.mark.parametrize("name", ["what?", "a?b=c", "{a}", "a b", "50% #1"])
def test_line_19_homes_of_odd_names_have_their_registry_and_their_copies(
    tmp_path, monkeypatch, name
):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path / name))
    assert registry.list_versions() == [] and (tmp_path / name / "registry.db").exists()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    place = str(tmp_path / name / "notebooks/x.ipynb")
    assert parameterize_path(engine._as_it_stands(place), {"a": "elsewhere"}) == place
