"""What a machine does to a run: a full disk, no rights, no kernel, no memory, a wrong clock.

Many starts at once and many widgets, too. Each ends with the right exit code and a remedy, what was
finished before stays as it was, and the next run goes on.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import record_toys
from fault_points import points, record
from run_toys import writing
from test_run_kills import orphans, torn

from helpers import store

SCRIPT = """import os, resource, sys
from pathlib import Path
from helpers import cli, store
store.NOTEBOOKS = Path({folder!r})
{before}
sys.exit(cli.main(sys.argv[1:]))
"""


DATASET = """from helpers import store
from helpers.records import DatasetPointer
# without its dataset's manifest 02 would not be reused
store.write_json(store.home() / "datasets/v/manifest.json", {"version": "v"})
store.open_run(run_id).save(DatasetPointer(version="v", fingerprint="f"))"""
EVALUATION = writing(record_toys.evaluation())
LONG_EVALUATION = writing(record_toys.evaluation(reasons=["x" * 400_000]))


class Toys:
    """Tiny notebooks 02 and 04; the driver is a process of its own."""

    def __init__(self, folder: Path) -> None:
        import run_light

        run_light.write_notebooks(folder / "notebooks", folder / "task")
        self.folder, self.home, self.profile = folder, folder / "home", str(folder / "light.yaml")
        self.write("02_curate", DATASET)
        self.write("04_evaluate", EVALUATION)

    def write(self, name: str, *cells: str) -> None:
        path = self.folder / "notebooks" / f"{name}.ipynb"
        book = json.loads(path.read_text())
        made = [book["cells"][0]]
        for number, source in enumerate(cells):
            made.append(book["cells"][1] | {"id": f"n{number}", "source": source, "metadata": {}})
        path.write_text(json.dumps(book | {"cells": made}))

    def start(
        self, *arguments: str, before: str = "", home: Path | None = None, **env: str
    ) -> subprocess.Popen:
        script = SCRIPT.format(folder=str(self.folder / "notebooks"), before=before)
        full = (
            os.environ
            | {"WORKBOOK_HOME": str(home or self.home), "PYTHONPATH": str(store.PROJECT)}
            | env
        )
        command = [
            sys.executable,
            "-c",
            script,
            *(arguments or ("run", self.profile, "--run-id", "r", "--only", "02,04")),
        ]
        return subprocess.Popen(
            command,
            env=full,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **options) -> tuple[int, str]:
        process = self.start(*arguments, **options)
        said = process.communicate(timeout=500)
        return process.returncode, "".join(said)


@pytest.fixture
def toys(tmp_path: Path, monkeypatch) -> Toys:
    monkeypatch.delenv("WORKBOOK_LOCK_HELD", raising=False)
    return Toys(tmp_path)


def mounted(place: Path, options: str) -> bool:
    """A small file system of its own, where this machine lets us."""
    if not shutil.which("mount"):
        return False
    return (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True
        ).returncode
        == 0
    )


def goes_on(toys: Toys, home: Path | None = None, errors: str = "") -> None:
    """What was finished is as it was, nothing is torn or left, and the command now ends well."""
    home = home or toys.home
    assert json.loads((home / "runs/r/dataset.json").read_text())["version"] == "v"
    assert "Traceback" not in errors, errors
    assert not orphans(home)
    toys.write("04_evaluate", EVALUATION)
    code, errors = toys.run(home=home)
    assert code == 0 and "02_curate reused" in errors, errors
    assert not torn(home)


def test_a_full_disk_is_6_and_after_freeing_some_space_it_goes_on(toys, tmp_path):
    place = tmp_path / "small"
    place.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("a small disk can only be mounted by root")
    try:
        fill = "from helpers import store\n"
        fill += "with open(store.home() / 'ballast', 'wb') as file:\n"
        fill += "    while True:\n        file.write(b'x' * 65536)\n        file.flush()"
        toys.write("04_evaluate", fill)
        code, errors = toys.run(home=place / "home")
        assert code == 6 and ("the disk is full" in errors or "no space left" in errors), errors
        record = json.loads((place / "home/runs/r/run.json").read_text())
        assert record["run_id"] == "r", "run.json is whole, if perhaps not up to date"
        (place / "home/ballast").unlink()
        goes_on(toys, place / "home", errors)
    finally:
        subprocess.run(["umount", "-l", place], check=False)


def test_a_file_size_limit_is_an_error_with_a_remedy_and_not_a_torn_file(toys):
    assert toys.run("run", toys.profile, "--run-id", "r", "--only", "02")[0] == 0
    toys.write("04_evaluate", LONG_EVALUATION)
    before = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    before += "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))"
    code, errors = toys.run(before=before)
    assert code == 6 and "file size limit" in errors and "--run-id r" in errors, errors
    goes_on(toys, errors=errors)


@pytest.mark.parametrize("kind", ["read-only", "a file"])
def test_a_home_that_cannot_be_written_is_2_with_a_remedy(toys, tmp_path, kind):
    place = tmp_path / "place"
    if kind == "a file":
        place.write_text("x")
        assert_refused(toys, place / "home")
        return
    place.mkdir()
    if not mounted(place, "ro,size=1m"):
        # root may write where modes forbid it
        pytest.skip("a read-only folder can only be mounted by root")
    try:
        assert_refused(toys, place / "home")
    finally:
        subprocess.run(["umount", "-l", place], check=False)


def assert_refused(toys: Toys, home: Path) -> None:
    code, errors = toys.run(home=home)
    assert code == 2 and "WORKBOOK_HOME" in errors and len(errors.strip().splitlines()) == 1, errors


def test_a_missing_kernel_is_2_and_says_what_to_install(toys):
    assert toys.run("run", toys.profile, "--run-id", "r", "--only", "02")[0] == 0
    hidden = "sys.modules['ipykernel'] = sys.modules['ipykernel.kernelspec'] = None"
    code, errors = toys.run(before=hidden)
    assert code == 2 and "make setup" in errors, errors
    goes_on(toys, errors=errors)


def test_a_kernel_that_dies_at_its_start_is_1_and_says_what_to_check(toys, tmp_path):
    assert toys.run("run", toys.profile, "--run-id", "r", "--only", "02")[0] == 0
    broken = tmp_path / "broken"
    (broken / "zmq").mkdir(parents=True)
    (broken / "zmq/__init__.py").write_text("raise ImportError('broken installation')")
    shutil.copy(store.PROJECT / "pyproject.toml", broken)
    before = f"import zmq, papermill, jupyter_client\nos.environ['PYTHONPATH'] = {str(broken)!r}\n"
    before += f"store.PROJECT = Path({str(broken)!r})"
    code, errors = toys.run(before=before)
    assert code == 1 and "workbook doctor" in errors and "Traceback" not in errors, errors
    goes_on(toys, errors=errors)


@pytest.mark.parametrize(
    ("cell", "code", "said"),
    [
        ("1 / 0", 1, "ZeroDivisionError"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 6, "out of memory"),
        (
            "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))\n"
            "kept = bytearray(2**32)",
            6,
            "out of memory",
        ),
    ],
)
def test_an_error_and_an_oom_kill_are_told_apart_and_the_earlier_work_stays(toys, cell, code, said):
    toys.write("04_evaluate", cell)
    found, errors = toys.run()
    assert (
        found == code and said in errors and "--run-id r" in (errors if code == 6 else "--run-id r")
    ), errors
    page = (toys.home / "runs/r/report.html").read_text()
    assert "What failed" in page and "--run-id r" in page
    goes_on(toys, errors=errors)


def test_a_clock_that_jumps_changes_nothing(toys):
    jump = "from datetime import timedelta\nreal = store.now\n"
    jump += "store.now = lambda: real() {} timedelta(days=400)"
    assert (
        toys.run("run", toys.profile, "--run-id", "r", "--only", "02", before=jump.format("+"))[0]
        == 0
    )
    for path in toys.home.rglob("*"):
        os.utime(path, (2e9, 2e9))  # written in 2033, says the file system
    goes_on(toys)
    code, errors = toys.run(before=jump.format("-"))
    assert code == 0 and "04_evaluate reused" in errors
    record = json.loads((toys.home / "runs/r/run.json").read_text())
    assert all(
        entry["seconds"] is None or 0 <= entry["seconds"] < 500 for entry in record["notebooks"]
    )


def test_150_widget_cells_do_not_hang(toys):
    cells = ["import ipywidgets as widgets", *["with widgets.Output():\n    print('shown')"] * 150]
    toys.write("04_evaluate", *cells, EVALUATION)
    code, errors = toys.run(
        "run", toys.profile, "--run-id", "r", "--only", "04", "-p", "time_limits={04_evaluate: 6}"
    )
    assert code == 0 and errors.count("shown") == 150, errors[-2000:]


def test_of_many_starts_at_once_one_runs_and_the_others_say_75(toys):
    many = min(50, len(points(16)))
    toys.write("02_curate", "import time; time.sleep(12)", DATASET)
    started = time.monotonic()
    ids = [("run", toys.profile, "--run-id", f"r{i}", "--only", "02") for i in range(many)]
    processes = [toys.start(*arguments) for arguments in ids]
    ended: dict[int, tuple[int, float]] = {}  # by process: exit code, seconds since the first start
    while len(ended) < many and time.monotonic() < started + 200:
        for number, process in enumerate(processes):
            if number not in ended and process.poll() is not None:
                ended[number] = process.returncode, time.monotonic() - started
        time.sleep(0.05)
    codes = [code for code, _ in ended.values()]
    refused = max((seconds for code, seconds in ended.values() if code == 75), default=None)
    for process in processes:
        process.communicate(timeout=10)
    failures = [] if sorted(codes) == [0] + [75] * (many - 1) else [codes]
    record(
        "run_starts",
        many,
        failures,
        seconds_until_the_last_was_refused=refused and round(refused, 1),
    )
    assert not failures
    assert len(list((toys.home / "runs").iterdir())) == 1
