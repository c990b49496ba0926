"""Line 19: an endless line of output is cut, and what a cell starts ends with the run."""

from __future__ import annotations

import time

from record_toys import environment
from run_toys import writing

from helpers import processes, store
from helpers.run import run
from helpers.run.engine import MOST_TEXT

STARTS = """import os, subprocess, sys
from helpers import store
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                         start_new_session=True)
store.write_text(store.home() / "child.pid", str(child.pid))"""


def test_line_19_an_endless_line_is_cut_and_what_a_cell_started_ends(toys, tmp_path):
    loud = ["print('x' * 80_000_000)", "for n in range(3000): print('y' * 999)"]
    loud += ["from IPython.display import HTML\nHTML('z' * 3_000_000)"]
    toys(nb00=[*loud, STARTS, writing(environment())])
    started = time.process_time()
    record = run(str(tmp_path / "toy.yaml"), run_id="r", only="00")
    assert record.exit_code == 0 and time.process_time() - started < 60, "measured: 2 s"
    copy = store.home() / "runs/r/notebooks/00_start_here.ipynb"
    assert copy.stat().st_size < 5 * MOST_TEXT
    assert "more characters are left out" in copy.read_text()
    child = int((store.home() / "child.pid").read_text())
    assert processes.process_start_time(child) is None
