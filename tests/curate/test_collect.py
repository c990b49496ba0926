import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_curate import TASK, chat

from helpers import curate
from helpers.records import WorkbookError

FUNNEL = {"stage", "source", "in", "out", "rejected"}  # as the manifest has it


def log(text, score=5, at="2026-06-15T12:00:00+00:00", **extra):
    return chat(text, feedback_score=score, created_at=at, **extra)


def codes(curated):
    return sorted(r.issues[0].code for r in curated.rejected)


def test_production_is_taken_by_score_and_by_inclusive_dates_in_their_time_zones(
    make_task, config, sentences
):
    texts = sentences(8)
    rows = [
        log(texts[0], at="2026-06-01T00:30:00+02:00"),  # the last evening of May in UTC
        log(texts[1], at="2026-06-01T00:00:00+00:00"),
        log(texts[2], at="2026-06-30T23:59:59+00:00"),
        log(texts[3], at="2026-07-01T01:00:00+02:00"),  # still June in UTC
        log(texts[4], at="2026-07-01T00:00:00+00:00"),
        log(texts[5], score=3),
        log(texts[6], score=None),
        log(texts[7], score=4),
    ]
    curated = curate.curate(
        config(make_task([], rows), date_from="2026-06-01", date_to="2026-06-30")
    )
    assert {e.user_text for e in curated.examples} == {texts[i] for i in (1, 2, 3, 7)}
    assert codes(curated) == ["low_feedback"] * 2 + ["out_of_date_range"] * 2
    assert all(e.quality == "unverified" and e.part == "train" for e in curated.examples)


def test_without_dates_no_row_is_out_of_range(make_task, config, sentences):
    moments = ("0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-05:00")
    rows = [log(t, at=at) for t, at in zip(sentences(2), moments, strict=True)]
    assert len(curate.curate(config(make_task([], rows))).examples) == 2


def test_a_log_without_any_feedback_is_taken_whole_and_says_so(make_task, config, sentences):
    curated = curate.curate(config(make_task([], [log(t, score=None) for t in sentences(5)])))
    assert len(curated.examples) == 5 and any(
        "no production row carries feedback" in w for w in curated.warnings
    )


def test_the_evidence_of_source_filters_is_a_sample_but_the_counts_are_whole(
    make_task, config, monkeypatch, sentences
):
    monkeypatch.setattr("helpers.tasks.examples.SAMPLE", 10)
    rows = [log(t, score=1, id=str(i)) for i, t in enumerate(sentences(40))] + [
        log("the only good row here")
    ]
    curated = curate.curate(config(make_task([], rows)))
    assert len(curated.rejected) == 10
    assert {"low_feedback": 40} in [row.rejected for row in curated.funnel]


def test_adding_production_rows_changes_nothing_for_human_rows(make_task, config, sentences):
    texts = sentences(80)
    human = [chat(t, id=f"h{i}") for i, t in enumerate(texts)]
    logs = [log(t + " indeed", id=f"p{i}") for i, t in enumerate(texts)] + [
        log(t) for t in sentences(40, seed=9)
    ]
    folder = make_task(human, logs)
    alone = {e.id: e.part for e in curate.curate(config(folder, use_production=False)).examples}
    both = {e.id: e.part for e in curate.curate(config(folder)).examples if e.source == "human"}
    assert alone == both and len(alone) > 70


def test_one_rule_that_removes_most_of_a_source_stops_the_run_and_names_itself(
    make_task, config, sentences
):
    rows = [log(t) for t in sentences(20)]
    for row in rows[:15]:
        row["messages"][-1]["content"] = "not JSON"
    folder = make_task([], rows)
    with pytest.raises(
        WorkbookError, match=r"invalid_format would remove 15 of 20 production rows \(75%.*line 1"
    ):
        curate.curate(config(folder, wipeout_share=0.5))
    assert len(curate.curate(config(folder, wipeout_share=1.0)).examples) == 5


def test_rows_without_an_answer_are_to_be_answered_or_left_out(make_task, config, sentences):
    rows = [log(t) for t in sentences(40)]
    for row in rows[:12]:
        del row["messages"][-1]
    remedy = "give these rows an answer, or delete them, or leave these rows out with wipeout_share"
    with pytest.raises(WorkbookError, match=f"label 'null' of .* 12 of its 12 rows .*{remedy}=1$"):
        curate.curate(config(make_task(rows), wipeout_share=0.95))


def test_low_feedback_raises_no_alarm(make_task, config, sentences):
    rows = [log(t, score=1) for t in sentences(30)] + [log("a row that was rated well")]
    assert len(curate.curate(config(make_task([], rows), wipeout_share=0.1)).examples) == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"near_duplicate_threshold": 80.0}, "near_duplicate_threshold"),
        ({"wipeout_share": 0.0}, "wipeout_share"),
        ({"date_from": "last week"}, "date_from"),
        ({"date_from": "2026-07-01", "date_to": "2026-06-01"}, "after date_to"),
        ({"min_tokens": 10, "max_tokens": 5}, "min_tokens"),
    ],
)
def test_a_wrong_setting_says_which_and_how_to_mend_it(config, wrong, said):
    with pytest.raises(WorkbookError, match=said):
        config("anywhere", **wrong)


def test_conflicts_are_listed_for_review_with_both_sides(make_task, config):
    rows = [
        chat("is the hub broken again today", "yes", id="a"),
        chat("is the hub broken again today", "no", id="b"),
    ]
    curated = curate.curate(config(make_task(rows)))
    assert {r["id"] for r in curated.review} == {"a", "b"} and len(curated.examples) == 2
    assert all(r["why"].startswith("label_conflict with") for r in curated.review)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
ROWS = st.fixed_dictionaries(
    {},
    optional={
        "id": JSON,
        "messages": JSON
        | st.lists(
            st.fixed_dictionaries(
                {"role": st.sampled_from(["user", "assistant", "x"]), "content": JSON}
            )
        ),
        "input": JSON,
        "output": JSON,
        "feedback_score": JSON | st.sampled_from([1, 5]),
        "created_at": JSON,
        "conversation_id": JSON,
    },
)
LINES = st.one_of(
    ROWS.map(json.dumps).map(str.encode),
    JSON.map(json.dumps).map(str.encode),
    st.binary(max_size=40),
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(LINES, max_size=8), st.booleans())
def test_whatever_a_log_holds_every_row_ends_in_exactly_one_place(lines, good):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "toy"
        folder.mkdir()
        (folder / "task.yaml").write_text(TASK)
        (folder / "human.jsonl").write_text(json.dumps(chat("the one good human row")))
        if good:
            lines = [*lines, json.dumps(log("the one good logged row")).encode()]
        data = b"\n".join([b"{}", *lines])  # one line alone may be a list of rows
        (folder / "production.jsonl").write_bytes(data)
        setting = {
            "base_model": "tiny",
            "split_ratios": {"train": 1.0, "validation": 0.0, "test": 0.0},
        }
        try:
            curated = curate.curate(
                curate.DataCollectionConfig(task=str(folder), wipeout_share=1.0, **setting)
            )
        except WorkbookError as error:  # two scales fit the few ratings: it asks
            assert "two ways" in str(error)
            return
    rows = [row for row in curated.funnel if row.source == "production"]
    for row in curated.funnel:
        assert row.rows_in == row.rows_out + sum(row.rejected.values()) and row.adds_up
        assert set(row.model_dump()) == FUNNEL
    written = sum(bool(line.strip()) for line in data.split(b"\n"))
    assert (rows[0].rows_in if rows else 0) == written
    kept = [e for e in curated.examples if e.source == "production"]
    lost = [r for r in curated.rejected if r.example["source"] == "production"]
    assert len(kept) + len(lost) == written
    assert (
        len(
            {(r.example["file"], r.example["line"]) for r in lost}
            | {("k", e.meta["line"]) for e in kept}
        )
        == written
    )
