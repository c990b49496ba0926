"""What a person meets in a real JupyterLab: Run All, an exercise, the widgets, both themes."""

from __future__ import annotations

import csv
import json
import urllib.request
from pathlib import Path

from helpers.learn import clean

WIDGETS = (
    """
from pathlib import Path
from IPython.display import display
from helpers import show
from helpers.records import Screening, WorkbookError
from helpers.show import curate, decide, train
show.time_cells()
display(curate.review_editor(Path("review.csv"), rows=2))
""",
    """
from types import SimpleNamespace
spans = [("system and question, given", False), ("the answer, learnt", True)]
display(train.seen_rows(SimpleNamespace(samples={"row": spans}), True))
display(show.note("a note"), show.note("good", "good"), show.note("mind", "warning"))
""",
    """
asked = []
view = train.JobView("ftjob-1", lambda job: asked.append(job) or "it is being cancelled")
curve = [{"step": s, "loss": 3 - s / 5, "eval_loss": 3 - s / 6} for s in range(1, 9)]
view.look({"status": "running", "ended": False, "minutes": 1.5, "usd": 0.2, "curve": curve})
""",
    """
import time
bar = show.Progress("few_shot", 4)
for _ in range(4):
    time.sleep(0.6)
    bar.add(1)
""",
    """
from helpers.show.whatif import what_if
volumes = {"requests a month": (100, 1000), "new knowledge": (False, True)}
what_if("Another volume", volumes, [100, False], lambda n, new: f"prompt {n / 100} USD, {new}")
""",
    "raise WorkbookError('the file is missing; run 02_curate first')",
)


def write_notebook(path: Path, *sources: str) -> None:
    cells = []
    for number, source in enumerate(sources):
        cell = {"cell_type": "code", "id": f"c{number}", "metadata": {}, "source": source.strip()}
        cells.append(cell)
    document = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(clean.as_text(clean.cleaned(document)))


def outputs_of(path: Path) -> list[dict]:
    """What Jupyter saved, cell after cell."""
    cells = json.loads(path.read_text())["cells"]
    return [output for cell in cells for output in cell.get("outputs", [])]


def test_the_first_notebook_runs_to_its_end_and_git_sees_nothing(lab):
    page = lab.open("notebooks/00_start_here.ipynb")
    lab.run_all(page)
    outputs = outputs_of(lab.folder / "notebooks" / "00_start_here.ipynb")
    assert len(outputs) >= 8
    bad = [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]
    assert not bad, bad
    said = json.dumps(outputs)
    assert said.count("Right: ") == 3, "a right answer is said aloud"
    assert lab.git_status() == ""
    for theme in ("Light", "Dark"):
        lab.theme(page, theme)
        assert lab.problems(page) == [], theme
    page.set_viewport_size({"width": 800, "height": 1000})
    wide = "() => [...document.querySelectorAll('.jp-OutputArea-output img')]"
    page.wait_for_function(f"{wide}.every(image => image.getBoundingClientRect().right <= 800)")
    page.close()


def test_the_whole_project_is_at_hand(lab):
    page = lab.open("notebooks/00_start_here.ipynb")
    names = page.evaluate(
        "async () => (await window.jupyterapp.serviceManager.contents.get('')).content"
        ".map(item => item.name)"
    )
    assert {"README.md", "docs", "params", "notebooks", "helpers"} <= set(names)
    page.close()


def test_lab_opens_with_the_first_notebook_its_contents_and_a_terminal(lab):
    page = lab.browser.new_page(viewport={"width": 1300, "height": 1000})
    page.set_default_timeout(120_000)
    page.goto(lab.address("lab/workspaces/workbook/tree/notebooks/00_start_here.ipynb"))
    page.locator(".jp-Notebook .jp-Cell").first.wait_for()
    page.locator(".jp-TableOfContents").get_by_text("This machine").wait_for()
    page.locator(".jp-Terminal").first.wait_for()
    page.screenshot(path=lab.folder.parent / "lab.png")
    page.close()


def test_every_widget_answers_in_both_themes_and_an_error_is_one_line(lab, axe):
    columns = ["id", "source", "input", "output", "why", "decision", "corrected_output", "reviewer"]
    with open(lab.folder / "notebooks" / "review.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        for n in range(3):
            row = {"id": f"r{n}", "input": "a question", "output": "an answer", "why": "random"}
            writer.writerow(row)
    path = lab.folder / "notebooks" / "99_widgets.ipynb"
    write_notebook(path, *WIDGETS)
    page = lab.open("notebooks/99_widgets.ipynb")
    lab.run_all(page)
    [error] = [o for o in outputs_of(path) if o["output_type"] == "error"]
    assert error["traceback"] == ["WorkbookError: the file is missing; run 02_curate first"]
    for theme in ("Light", "Dark"):
        lab.theme(page, theme)
        assert lab.problems(page) == [], theme
    assert axe(page, ".jp-Notebook .jp-OutputArea") == []
    page.get_by_label("requests a month").focus()
    for key in ("Space", "ArrowDown", "Enter"):  # an arrow alone is Lab's own: it moves on a cell
        page.keyboard.press(key)
    page.get_by_role("status").get_by_text("prompt 10.0 USD, False").wait_for()
    page.get_by_label("decision").first.select_option("drop")
    page.get_by_text("NOT saved yet: 1 decisions").wait_for()
    page.get_by_label("your name").fill("Ann")
    page.get_by_text("1 of 3 decided").wait_for()
    page.get_by_role("button", name="More rows").click()
    page.get_by_text("Rows 3 to 3 of 3").wait_for()
    page.get_by_label("decision").first.select_option("keep")
    page.get_by_text("2 of 3 decided").wait_for()
    with open(lab.folder / "notebooks" / "review.csv", newline="") as file:
        decisions = [(row["decision"], row["reviewer"]) for row in csv.DictReader(file)]
    assert decisions == [("drop", "Ann"), ("", ""), ("keep", "Ann")]
    page.get_by_role("button", name="Cancel the job").click()
    page.get_by_text("few_shot: 4 of 4 rows").wait_for()
    page.get_by_text("this cell took").first.wait_for()
    page.close()


def test_an_exercise_says_what_is_wrong_and_then_that_it_is_right(lab):
    path = lab.folder / "notebooks" / "98_exercise.ipynb"
    answer = "def double(n):\n    return {}"
    check = "from helpers import learn\nlearn.check(double, ((3,), 6, 'twice three'))"
    write_notebook(path, answer.format("n + 2"), check, answer.format("2 * n"), check)
    page = lab.open("notebooks/98_exercise.ipynb")
    lab.run_all(page)
    [error] = [o for o in outputs_of(path) if o["output_type"] == "error"]
    assert error["traceback"] == ["Not yet. double(3) should be 6, yours gives 5: twice three."]
    page.evaluate(
        "() => { const n = window.jupyterapp.shell.currentWidget.content;"
        " n.activeCellIndex = 2; return 0 }"
    )
    for _ in range(2):
        run = "() => window.jupyterapp.commands.execute('notebook:run-cell-and-select-next')"
        page.evaluate(run)
    page.get_by_text("Right: double gives what is expected").wait_for()
    page.close()


def test_it_asks_for_no_news_and_no_updates(lab):
    url = lab.address("lab/api/settings/@jupyterlab/apputils-extension:notification")
    with urllib.request.urlopen(url, timeout=60) as reply:
        values = json.load(reply)["schema"]["properties"]
    assert values["fetchNews"]["default"] == "false"
    assert values["checkForUpdates"]["default"] is False
