"""report.html, as a mail's link opens it: readable by everybody in both themes."""

from __future__ import annotations

import base64

import pytest
from record_toys import run_record

from helpers import store
from helpers.run import report

# one black pixel
PICTURE = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)


@pytest.fixture
def page_of_a_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path))
    assert base64.b64decode(PICTURE, validate=True)
    run = store.open_run("r")
    record = run_record("r", "01_decide", "04_evaluate", status="failed", exit_code=1)
    outputs = [{"output_type": "display_data", "data": {"image/png": PICTURE}, "metadata": {}}]
    cells = [{"cell_type": "code", "source": [], "metadata": {}, "outputs": outputs}]
    store.write_json(run.path("notebooks/01_decide.ipynb"), {"cells": cells})
    run.save(record)
    path = tmp_path / "report.html"
    path.write_text(report.page(record, "where: 04_evaluate\nwhat: <it> broke"))
    return path


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_report_is_accessible_in_both_themes(page_of_a_run, browser, axe, theme):
    size = {"width": 390, "height": 900}
    context = browser.new_context(viewport=size, color_scheme=theme)
    page = context.new_page()
    page.goto(page_of_a_run.as_uri())
    assert page.get_by_text("what: <it> broke").is_visible()
    assert axe(page) == []
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(20, 24, 30)") == (theme == "dark")
    context.close()
