"""The book: built without network from a small executed run, whole, and readable by everybody."""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest
from record_toys import run_record

from helpers import store
from helpers.learn.edition import course_notebooks
from helpers.records import WorkbookError

pytest.importorskip("sphinx", reason="the extra `book` is not installed")
pytest.importorskip("myst_nb", reason="the extra `book` is not installed")
pytest.importorskip("pydata_sphinx_theme", reason="the extra `book` is not installed")

TABLE = (
    '<table><caption style="font-weight: bold">What came out</caption><thead><tr>'
    '<th scope="col">rung</th></tr></thead><tbody><tr><td>few_shot</td></tr></tbody></table>'
)
NOTE = '<div style="border-left:4px solid #E69F00;padding:.3em .8em">mind this</div>'


def module():
    path = store.PROJECT / "docs" / "book" / "make.py"
    spec = importlib.util.spec_from_file_location("book_make", path)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def executed(document: dict, outputs: list[dict]) -> dict:
    """The notebook as if its last cell of code had shown something."""
    cells = [dict(cell) for cell in document["cells"]]
    last = max(n for n, cell in enumerate(cells) if cell["cell_type"] == "code")
    cells[last] |= {"execution_count": 1, "outputs": outputs}
    return document | {"cells": cells}


def html(text: str) -> dict:
    return {"output_type": "display_data", "data": {"text/html": text}, "metadata": {}}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with one finished run of all notebooks but 03b."""
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("home")
    patch.setenv("WORKBOOK_HOME", str(folder))
    run = store.open_run("made")
    for path, document in course_notebooks().items():
        if path.parent.name != "more" and path.stem != "03b_train_openai":
            store.write_json(run.path(f"notebooks/{path.name}"), executed(document, [html(TABLE)]))
    path = run.path("notebooks/06_monitor.ipynb")
    store.write_json(path, executed(store.read_json(path), [html(TABLE), html(NOTE)]))
    run.save(run_record("made"))
    yield folder
    patch.undo()


@pytest.fixture(scope="module")
def site(home):
    """The pages of the last finished run; links and loads were judged while they were made."""
    make = module()
    return make.build(make.choose_run(""), home / "book").parent


def test_every_notebook_and_guide_is_a_page_that_needs_no_network(site):
    for path in course_notebooks():
        assert (site / path.with_suffix(".html")).exists(), path
    for guide in (*module().GUIDES, *module().REFERENCE):
        assert (site / f"{guide}.html").exists(), guide
    index = (site / "index.html").read_text()
    assert ">made<" in index and "Open it in Lab" in index
    page = (site / "04_evaluate.html").read_text()
    assert "What came out" in page and "Executed; its outputs are those of the run." in page
    assert "Not run for this book." in (site / "03b_train_openai.html").read_text()
    assert module().faults(site) == []
    words = json.loads((site / "searchindex.js").read_text().removeprefix("Search.setIndex(")[:-1])
    assert "leakag" in words["terms"], "what is searched is found without a server"


def test_a_word_of_the_glossary_is_explained_where_it_is_first_said(site):
    page = (site / "04_evaluate.html").read_text()
    link = '<a href="glossary.html#term-chat-template" aria-describedby="about-term-chat-template">'
    assert page.count(link) == 1
    assert 'role="tooltip" id="about-term-chat-template">The rule by which' in page
    assert 'id="term-chat-template"' in (site / "glossary.html").read_text()


def test_a_run_with_an_error_in_it_makes_no_book(home):
    make = module()
    [path] = [path for path in course_notebooks() if path.stem == "00_start_here"]
    error = {"output_type": "error", "ename": "ValueError", "evalue": "", "traceback": []}
    document = executed(course_notebooks()[path], [error])
    with pytest.raises(WorkbookError, match="a cell ended in ValueError"):
        make.notebook_page(document, path, True)
    with pytest.raises(WorkbookError, match="there is no run 'other'"):
        make.choose_run("other")


def test_a_page_names_no_folder_of_its_maker(home):
    [path] = [path for path in course_notebooks() if path.stem == "00_start_here"]
    shown = html(f"{home}/runs/made, {store.PROJECT}/helpers/store.py, {sys.prefix}/bin/python")
    page = module().notebook_page(executed(course_notebooks()[path], [shown]), path, True)
    assert "artifacts/runs/made, fine-tuning-workbook/helpers/store.py, .venv/bin/python" in page


def test_links_to_guides_lead_to_their_pages_and_others_are_text():
    links = module().local_links
    assert links("[a](../docs/serving.md#keys), [b](../../LICENSE)", "../") == (
        "[a](../serving.md#keys), `b`"
    )
    assert links("[c](task.md) and [d](https://example.org)") == (
        "[c](task.md) and [d](https://example.org)"
    )


def test_links_that_lead_nowhere_and_loads_from_the_network_are_faults(tmp_path):
    (tmp_path / "a.html").write_text(
        '<a href="b.html#here">b</a><a href="b.html#gone">c</a><a href="no.html">d</a>'
        '<a href="https://example.org">fine</a><script src="https://example.org/x.js"></script>'
    )
    (tmp_path / "b.html").write_text('<p id="here">b</p>')
    assert module().faults(tmp_path) == [
        "a.html loads https://example.org/x.js",
        "a.html: b.html#gone has no such place",
        "a.html: no.html is not there",
    ]


@pytest.mark.parametrize(("theme", "width"), [("light", 1300), ("dark", 390)])
def test_pages_are_accessible_in_both_themes_and_fit_a_phone(site, browser, axe, theme, width):
    size = {"width": width, "height": 900}
    context = browser.new_context(viewport=size, color_scheme=theme)
    page = context.new_page()
    for name in ("index", "06_monitor", "glossary"):
        page.goto((site / f"{name}.html").as_uri())
        assert axe(page) == [], (name, theme, width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
    page.goto((site / "04_evaluate.html").as_uri())
    page.locator(".term a").first.focus()
    page.locator(".term .meaning:visible").first.wait_for()
    context.close()
