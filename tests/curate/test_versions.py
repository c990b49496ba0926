import csv
import json
import shutil
from dataclasses import replace

import pytest
from toy_curate import chat

from helpers import curate, store, tasks
from helpers.records import DatasetPointer, FunnelRow, RejectedExample, WorkbookError
from helpers.show import curate as views

FILES = {
    "train.jsonl",
    "validation.jsonl",
    "test.jsonl",
    "rejected.jsonl",
    "review.csv",
    "card.md",
    "manifest.json",
}


@pytest.fixture
def curated(make_task, config, sentences, home):
    human = [chat(t, id=f"h{i}") for i, t in enumerate(sentences(60))]
    logs = [chat(t, feedback_score=5, id=f"p{i}") for i, t in enumerate(sentences(20, seed=4))]
    logs += [
        chat("mail me at mara@example.com", feedback_score=5),
        chat("bad", feedback_score=1),
        "{broken",
    ]
    return curate.curate(config(make_task(human, logs)))


def test_a_version_holds_its_files_and_is_read_back_as_it_was_published(curated, home):
    dataset = curate.publish_dataset(curated)
    folder = home / "datasets" / dataset.metadata.version
    assert {p.name for p in folder.iterdir()} == FILES and len(list(folder.parent.iterdir())) == 1
    run = store.open_run("t")
    run.save(DatasetPointer(version=folder.name, fingerprint=dataset.metadata.fingerprint))
    assert tasks.read_dataset(run) == dataset
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (
        sum(manifest["splits"].values())
        == sum(manifest["counts"].values())
        == len(dataset.examples)
    )
    assert folder.name == f"toy-{manifest['fingerprint'][:12]}"
    rejected = [RejectedExample(**row) for row in store.read_jsonl(folder / "rejected.jsonl")]
    assert all({"id", "source", "file", "line", "sha256"} <= set(r.example) for r in rejected)
    assert "mara" not in (folder / "rejected.jsonl").read_text()
    assert next(csv.reader((folder / "review.csv").open()))[0] == "id"
    assert curate.check_dataset(dataset, curated.funnel, 50)


def test_publishing_the_same_content_again_reuses_the_folder(curated, home):
    first = curate.publish_dataset(curated)
    before = {p: p.stat().st_mtime_ns for p in (home / "datasets").rglob("*")}
    again = curate.publish_dataset(replace(curated, examples=list(reversed(curated.examples))))
    assert again.metadata == first.metadata
    assert {p: p.stat().st_mtime_ns for p in (home / "datasets").rglob("*")} == before


def test_the_fingerprint_follows_content_and_not_order_time_or_place(curated):
    rows = curated.examples
    print_ = curate.content_fingerprint(rows)
    moved = [
        e.model_copy(update={"meta": {"file": "other"}, "created_at": store.now()})
        for e in reversed(rows)
    ]
    assert curate.content_fingerprint(moved) == print_
    assert curate.content_fingerprint(
        [*rows[1:], rows[0].model_copy(update={"part": "test"})]
    ) != print_ or (rows[0].part == "test")
    assert curate.content_fingerprint(rows[1:]) != print_


@pytest.mark.parametrize("at", range(1, 8))
def test_a_run_killed_at_any_file_leaves_no_version(curated, home, monkeypatch, at):
    real, count = store.write_text, 0

    def killed(path, text):
        nonlocal count
        count += 1
        if count == at:
            raise KeyboardInterrupt
        return real(path, text)

    monkeypatch.setattr(store, "write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        curate.publish_dataset(curated)
    assert not list((home / "datasets").glob("[!.]*"))
    monkeypatch.setattr(store, "write_text", real)
    curate.publish_dataset(curated)
    assert len(list((home / "datasets").iterdir())) == 1


def test_a_folder_that_is_deleted_while_it_is_written_becomes_no_version(
    curated, home, monkeypatch, caplog
):
    real = store.write_text
    old = real(home / "datasets" / ".toy-0.partial" / "train.jsonl", "of 0.1.0").parent

    def swept(path, text):
        if path.name == "test.jsonl":
            shutil.rmtree(path.parent)
        return real(path, text)

    monkeypatch.setattr(store, "write_text", swept)
    with pytest.raises(WorkbookError, match=r"train.jsonl, validation.jsonl of .* vanished"):
        curate.publish_dataset(curated)
    assert not list((home / "datasets").glob("[!.]*"))
    assert not old.exists() and old.name in caplog.text


def test_the_checkpoint_refuses_too_little_data_and_a_funnel_that_does_not_add_up(curated):
    dataset = curate.publish_dataset(curated)
    with pytest.raises(WorkbookError, match="min_examples=1000"):
        curate.check_dataset(dataset, curated.funnel, 1000)
    leaks = {"stage": "leakage", "source": "human", "in": 60, "out": 30}
    funnel = [FunnelRow(rejected={"potential_leakage": 30}, **leaks)]
    with pytest.raises(
        WorkbookError, match=r"potential_leakage 30 of 60 human rows.*rejected.jsonl"
    ):
        curate.check_dataset(dataset, funnel, 1000)
    with pytest.raises(WorkbookError, match="does not add up"):
        curate.check_dataset(dataset, [curated.funnel[0].model_copy(update={"rows_in": 0})], 1)
    rows = [e.model_copy(update={"group": "one"}) for e in dataset.examples]
    with pytest.raises(WorkbookError, match="two parts"):
        curate.check_dataset(dataset.model_copy(update={"examples": rows}), curated.funnel, 1)


def test_an_empty_part_is_published_and_refused_by_the_checkpoint(curated):
    dataset = curate.publish_dataset(
        replace(curated, examples=[e for e in curated.examples if e.part == "train"])
    )
    assert dataset.splits.test == 0
    with pytest.raises(WorkbookError, match="no validation and no test rows"):
        curate.check_dataset(dataset, curated.funnel, 1)


def test_the_views_show_the_counts_and_never_a_masked_value(curated):
    dataset = curate.publish_dataset(curated)
    html = (
        views.rejected_table(curated.rejected, True).data
        + views.funnel_table(curated.funnel).to_html()
    )
    assert "contains_pii" in html and "mara" not in html
    assert views.parts_table(dataset).data["rows"].sum() == len(dataset.examples)
    titles = [axis.get_title(loc="left") for axis in views.funnel_figure(curated.funnel).axes]
    assert any(f"{len(dataset.part('test'))}" for _ in titles) and titles[0].startswith(
        "human: 60 rows read"
    )
    assert len(views.parts_figure(dataset, curated.labels).axes) == 2
    assert len(views.review_table(curated.review, True).data) == 10
    assert views.review_table([], True).data.empty


def test_headless_tables_show_no_text(curated, monkeypatch):
    monkeypatch.setenv("WORKBOOK_HEADLESS", "1")
    html = views.rejected_table(curated.rejected, True).data
    excerpts = [r.example.get("excerpt", "") for r in curated.rejected]
    assert "characters)" in html and not [
        text for text in excerpts if len(text) > 8 and text in html
    ]
