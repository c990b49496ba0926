"""A newcomer's first hour in a real JupyterLab: 00 to 06 by Run All, an exercise, a break found.

With WORKBOOK_BROWSER=tutorial the notebooks are run as they stand (about half an hour); else with a
random model and few rows. It says how long a reader waited for the next sign of life.
"""

from __future__ import annotations

import json
import os
import shutil
import time

import pytest
from test_lab import outputs_of

from helpers.learn import clean

FULL = os.environ.get("WORKBOOK_BROWSER", "") == "tutorial"
NAMES = ["01_decide", "02_curate", "03a_train_lora", "04_evaluate", "05_registry", "06_monitor"]
if FULL:  # else test_lab runs it
    NAMES.insert(0, "00_start_here")
SMALL = """\
base_model: tiny
train_anyway_because: a browser looks
rungs: [zero_shot, few_shot]
few_shot_pick: fixed
prompt_search_budget: 0
max_validation_rows: 4
most_validation_rows: 0
max_new_tokens: 8
latency_rows: 1
use_production: false
epochs: 1.0
max_train_tokens: 2000
max_test_rows: 8
"""
STATE = """() => {
    const prompts = [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]
        .map(prompt => prompt.textContent);
    const told = output => output.textContent
        + [...output.querySelectorAll('img')].map(image => image.src.length);
    const outputs = [...document.querySelectorAll('.jp-OutputArea-output')];
    const [clocks, news] = [[], []];
    for (const output of outputs)
        (output.querySelector('[role=timer]') ? clocks : news).push(told(output));
    const hash = texts => [...texts.join()].reduce((h, c) => (31 * h + c.charCodeAt(0)) | 0, 0);
    return [prompts.filter(p => p == '[*]:').length, prompts.filter(p => /[0-9]/.test(p)).length,
            hash(news), hash(clocks)];
}"""
SET_SOURCE = """([id, source]) => {
    const notebook = window.jupyterapp.shell.currentWidget.content;
    const place = notebook.widgets.findIndex(cell => cell.model.id === id);
    notebook.widgets[place].model.sharedModel.setSource(source);
    notebook.activeCellIndex = place;
    return place;
}"""
STEP = "() => window.jupyterapp.commands.execute('notebook:run-cell-and-select-next')"


def change(path, *pairs: tuple[str, str]) -> None:
    """Edit the saved notebook's parameters cell, as a reader would."""
    document = json.loads(path.read_text())
    cell = next(c for c in document["cells"] if "parameters" in c["metadata"].get("tags", []))
    text = "".join(cell["source"])
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    cell["source"] = text.splitlines(keepends=True)
    path.write_text(clean.as_text(document))


@pytest.fixture(scope="module")
def project(lab):
    """The lab's copy, set to a random model and few rows unless everything is wanted."""
    if not FULL:
        (lab.folder / "params" / "browser.yaml").write_text(SMALL)
        for name in NAMES:
            path = lab.folder / "notebooks" / f"{name}.ipynb"
            change(path, ('profile: str = "tutorial"', 'profile: str = "browser"'))
    return lab


def run_all(lab, page) -> tuple[float, float]:
    """Run All; the longest time in which nothing changed on the page, in seconds: at all, and apart
    from the line that says for how long a cell has been at work."""
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }")
    last, longest = [None, None], [0.0, 0.0]
    since = [time.monotonic()] * 2
    while True:
        running, done, *state = page.evaluate(STATE)
        now = time.monotonic()
        for k, sign in enumerate(([running, done, *state], [running, done, state[0]])):
            if sign != last[k]:
                last[k], since[k] = sign, now
            longest[k] = max(longest[k], now - since[k])
        if done and not running:
            break
        page.wait_for_timeout(200)
    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
    return longest[0], longest[1]


@pytest.mark.timeout(3000 if FULL else 900)
@pytest.mark.parametrize("name", NAMES)
def test_run_all_reaches_the_end_without_a_red_box(project, axe, name):
    page = project.open(f"notebooks/{name}.ipynb")
    silent, clock = run_all(project, page)
    print(f"{name}: silent for {silent:.0f} s at most, with a clock alone {clock:.0f} s")
    outputs = outputs_of(project.folder / "notebooks" / f"{name}.ipynb")
    bad = [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]
    assert not bad, bad
    assert json.dumps(outputs).count("Right: ") == 3, "every exercise is said to be right"
    for theme in ("Light", "Dark"):
        project.theme(page, theme)
        assert project.problems(page) == [], theme
    assert axe(page, ".jp-Notebook .jp-OutputArea") == []
    if FULL:  # else the profile's name was changed in the file
        assert project.git_status() == "", "Run All and save are no change"
    page.close()


def test_a_wrong_answer_is_told_what_is_wrong_and_the_right_one_is_praised(project):
    page = project.open("notebooks/00_start_here.ipynb")
    head = "def saving_pays(tokens, requests, usd_per_million, upkeep):\n    return "
    imports = "from helpers import learn"
    page.evaluate(SET_SOURCE, ["4", imports])
    page.evaluate(STEP)
    for answer, said in (("True", "Not yet. saving_pays("), ("", "Right: saving_pays gives")):
        right = "tokens * requests / 1_000_000 * usd_per_million > upkeep"
        page.evaluate(SET_SOURCE, ["saving-pays-answer", head + (answer or right)])
        page.evaluate(STEP)
        page.evaluate(STEP)
        page.get_by_text(said).first.wait_for()
    page.close()


def test_a_break_is_found_by_looking(project):
    runs = project.folder / "artifacts" / "runs"
    shutil.copytree(runs / "dev", runs / "broken")
    shutil.rmtree(runs / "broken" / "training", ignore_errors=True)
    path = project.folder / "notebooks" / "03a_train_lora.ipynb"
    change(path, ('"dev"', '"broken"'), ('break_it: str = ""', 'break_it: str = "end_token"'))
    page = project.open("notebooks/03a_train_lora.ipynb")
    page.evaluate(
        "() => { const n = window.jupyterapp.shell.currentWidget.content;"
        " n.activeCellIndex = n.widgets.findIndex("
        "c => c.model.sharedModel.getSource().includes('checks_table(report)')) + 1; return 0 }"
    )
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-above')")
    row = page.locator("tr", has_text="end of turn is learnt").first
    row.get_by_text("NO", exact=True).wait_for()
    assert (runs / "broken" / "broken.json").exists(), "and it can never serve"
    fold = page.locator("details", has_text="Debrief: end_token").first
    assert not fold.evaluate("fold => fold.open"), "nothing is given away before it is asked for"
    fold.evaluate("fold => fold.querySelector('summary').click()")
    assert fold.evaluate("fold => fold.open && fold.textContent.includes('coloured rows')")
    page.close()
