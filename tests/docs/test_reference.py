"""The reference pages are what the code says, and their snippets work."""

from __future__ import annotations

import re

import pytest
import yaml
from record_toys import evaluation

from benchmarks import make_docs, reference_text
from helpers import records, store
from helpers.tasks import Task, load_task

BLOCKS = re.compile(r"^```(\w+)\n(.*?)^```", re.M | re.S)


def blocks(page: str, language: str) -> list[str]:
    text = (make_docs.DOCS / page).read_text(encoding="utf-8")
    return [body for name, body in BLOCKS.findall(text) if name == language]


@pytest.mark.parametrize("page", make_docs.PAGES)
def test_the_committed_page_is_what_the_code_says(page):
    text = (make_docs.DOCS / page).read_text(encoding="utf-8")
    assert text == make_docs.PAGES[page](), "run `python -m benchmarks.make_docs` and commit docs/"


@pytest.mark.parametrize("page", make_docs.PAGES)
def test_every_field_is_explained(page):
    text = (make_docs.DOCS / page).read_text(encoding="utf-8")
    silent = [line for line in text.splitlines() if re.search(r"\|\s*\|$", line)]
    assert not silent, "write a comment beside the field, or a line into reference_text.py"


def test_every_artifact_has_its_chapter():
    assert set(reference_text.ARTIFACTS) == set(make_docs.ArtifactsPage.KINDS)


def test_no_explanation_outlives_its_field():
    named = vars(records) | {"Task": Task}
    for key in reference_text.MEANINGS:
        record, field = key.split(".")
        assert field in named[record].model_fields, key


def test_every_field_of_a_task_stands_on_its_page():
    shown = [name for _, _, names in reference_text.TASK_SECTIONS for name in names]
    fields = {field.alias or name for name, field in Task.model_fields.items()}
    assert sorted(shown) == sorted(fields - {"folder", "shipped"})


def test_the_snippets_of_the_task_page_are_valid(tmp_path):
    least, *further = (yaml.safe_load(block) for block in blocks("task.md", "yaml"))
    for number, change in enumerate([{}, *further]):
        folder = tmp_path / str(number)
        folder.mkdir()
        text = yaml.safe_dump(least | change, allow_unicode=True)
        (folder / "task.yaml").write_text(text, encoding="utf-8")
        task = load_task(str(folder))
        for name in change:
            if name not in ("prices", "parts_by_time", "allow"):
                assert getattr(task, name) == change[name]


def test_the_snippet_of_the_artifacts_page_reads_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path))
    store.open_run("my-run").save(evaluation())
    [snippet] = blocks("artifacts.md", "python")
    exec(snippet, {})
    assert capsys.readouterr().out == "pass\n"
