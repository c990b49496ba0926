"""Curation of what people bring: alarms per label, codes that are no phones, bound decisions."""

import csv
import json

import pytest
from toy_curate import RATIOS, TASK, chat

from helpers import curate, store
from helpers.curate.codes import is_code
from helpers.records import Manifest, WorkbookError
from helpers.redaction import find_personal_data

WORDS = ["amber", "brick", "cedar", "delta", "ember", "flint", "grove", "heron", "ivory", "joker"]
WORDS += ["kayak", "lemon", "mango"]


def sentence(number):
    picked = [WORDS[(number * step + step) % len(WORDS)] for step in (1, 3, 4, 6, 9)]
    return f"{' '.join(picked)} case {chr(97 + number % 26) * 3} {chr(97 + number // 26) * 4}"


@pytest.mark.parametrize(
    ("text", "personal"),
    [
        ("my order 4123807367 is late", False),
        ("parcel no. 616948804011 is lost", False),
        ("we run version 14.12.0.8 here", False),
        ("it was on 13.07.2026", False),
        ("it stands at 29.866314, -134.919420", False),
        ("logged at 1732184874", False),
        ("serial 107-7712-429 is broken", False),
        ("call me on 0301 234567890 please", True),
        ("my phone is 6502530000", True),
        ("+1 650 253 0000", True),
        ("(650) 253-0000 is mine", True),
        ("the server is 203.0.113.77", True),
        ("card 4111 1111 1111 1111", True),
        ("write to ann@example.org", True),
    ],
)
def test_a_code_is_no_phone_and_a_phone_is_no_code(text, personal):
    found = [span for span in find_personal_data(text) if not is_code(text, span)]
    assert bool(found) is personal


def rows_with(numbers):
    """40 rows of yes, of which some hold what looks like a phone, and 40 of no."""
    for number in range(80):
        text = sentence(number)
        if number < 40 and number in numbers:
            text += f" ring 0301 23456{number:02} 90"
        yield chat(text, "yes" if number < 40 else "no")


def test_a_label_that_loses_most_of_its_rows_to_one_rule_stops_and_names_the_remedy(
    make_task, config, home
):
    folder = make_task(list(rows_with(range(30))))
    with pytest.raises(WorkbookError, match=r"'yes' of label would lose 30 of its 40 rows.*allow:"):
        curate.curate(config(folder, wipeout_share=0.5))
    allowed = TASK + "allow: {hotline: 'ring [0-9 ]{12,}'}\n"
    (folder / "task.yaml").write_text(allowed)
    kept = curate.curate(config(folder, wipeout_share=0.5))
    assert sum(row.rejected.get("contains_pii", 0) for row in kept.funnel) == 0


def test_answers_that_somebody_called_bad_are_not_learnt(make_task, config, home):
    rows = []
    for number in range(20):
        answer = json.dumps({"label": "yes"})
        rows.append({"prompt": sentence(number), "completion": answer, "label": number % 4 > 0})
    curated = curate.curate(config(make_task(rows)))
    assert len(curated.examples) + sum(r.stage != "filter" for r in curated.rejected) == 15
    lost = [row for row in curated.rejected if row.stage == "filter"]
    assert len(lost) == 5 and {row.issues[0].code for row in lost} == {"low_feedback"}


def test_rows_that_differ_in_their_system_message_alone_are_no_copies(make_task, config, home):
    rows = []
    for number in range(12):
        for plan in ("gold", "basic"):
            row = chat(sentence(number), "yes" if plan == "gold" else "no")
            row["messages"].insert(0, {"role": "system", "content": f"Plan: {plan}"})
            rows.append(row)
    curated = curate.curate(config(make_task(rows)))
    assert len(curated.examples) == 24 and not curated.rejected
    assert not any("label_conflict" in row["why"] for row in curated.review)


def decided(folder, curated, decision):
    dataset = curate.publish_dataset(curated)
    path = store.home() / "datasets" / dataset.metadata.version / "review.csv"
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with open(folder / "review.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"decision": decision, "reviewer": "ann"} for row in rows)
    return len(rows)


def test_a_decision_is_about_what_the_row_held_and_not_about_its_number(make_task, config, home):
    first = [chat(sentence(number), id=number) for number in range(30)]
    folder = make_task(first)
    n = decided(folder, curate.curate(config(folder)), "drop")
    again = curate.curate(config(folder))
    assert sum(row.stage == "review" for row in again.rejected) == n > 0
    make_task([chat(sentence(number + 40), id=number) for number in range(30)])
    other = curate.curate(config(folder))
    assert not any(row.stage == "review" for row in other.rejected)
    assert any("decisions are not applied" in warning for warning in other.warnings)


def test_a_logged_row_never_takes_the_id_of_a_human_one(make_task, config, home):
    human = [chat(sentence(number), id=number) for number in range(10)]
    logged = [chat(sentence(number + 40), id=number, feedback_score=5) for number in range(10)]
    curated = curate.curate(config(make_task(human, logged)))
    assert len({example.id for example in curated.examples}) == len(curated.examples)
    assert {example.source for example in curated.examples} == {"human", "production"}


def test_labels_in_two_spellings_are_named_and_can_be_merged_in_review(make_task, config, home):
    rows = [chat(sentence(number), "yes" if number % 5 else "Yes") for number in range(40)]
    folder = make_task(rows)
    (folder / "task.yaml").write_text(TASK.replace('["yes", "no"]', '["yes", "Yes"]'))
    curated = curate.curate(config(folder))
    assert any("'yes', 'Yes' look like one label" in warning for warning in curated.warnings)
    asked = [row for row in curated.review if "is spelled 'Yes'" in row["why"]]
    assert 0 < len(asked) <= 8 and json.loads(asked[0]["corrected_output"]) == {"label": "yes"}


def test_labels_that_are_shown_alike_are_counted_together(make_task, config, home):
    mails = ("billing@example.org", "care@example.org")
    rows = [chat(sentence(number), mails[number % 2]) for number in range(20)]
    folder = make_task(rows)
    allowed = "allow: {mailbox: '[a-z]+@example.org'}\n"
    (folder / "task.yaml").write_text(TASK.replace('["yes", "no"]', str([*mails])) + allowed)
    curated = curate.curate(config(folder))
    counts = curated.labels["label"]
    assert {value for part in counts.values() for value in part} == {"[e-mail]"}
    assert sum(part["[e-mail]"] for part in counts.values()) == len(curated.examples) > 10


def test_the_manifest_says_what_was_read_and_how(make_task, config, home):
    human = [chat(sentence(number), priority=3) for number in range(10)]
    logged = [chat(sentence(number + 40), feedback_score=number % 2) for number in range(10)]
    dataset = curate.publish_dataset(curate.curate(config(make_task(human, logged))))
    path = store.home() / "datasets" / dataset.metadata.version / Manifest.FILE
    one, two = Manifest.parse(store.read_json(path), "manifest").readings
    assert (one.file, one.rows, one.format) == ("human.jsonl", 10, "chat")
    assert ("priority", "not used") in [(column.name, column.use) for column in one.columns]
    assert [column.how for column in two.columns] == ["thumbs, 1 -> 5, 0 -> 1; 10 of 10 rated"]
    assert set(RATIOS) == {"train", "validation", "test"}


def test_badly_rated_human_rows_stay_and_are_counted(make_task, config, home):
    human = [chat(sentence(n), feedback_score="👎" if n < 3 else "👍") for n in range(10)]
    made = curate.curate(config(make_task(human)))
    said = "rated below 4 and kept: verified rows are not rejected for ratings"
    assert len(made.examples) == 10 and f"3 human rows are {said}" in made.warnings
    assert made.readings[0].changes[said] == 3
    unrated = curate.curate(config(make_task([chat(sentence(n)) for n in range(10)])))
    assert not unrated.readings[0].columns and not unrated.readings[0].changes.get(said)


# --- masking, codes of one label, labels without a test -------------------------------------------


def test_personal_data_is_masked_where_asked_and_counted_and_decisions_stay_bound(
    make_task, config, home
):
    rows = [chat(f"{sentence(n)} write to ann{n}@example.org", id=f"r{n}") for n in range(12)]
    folder = make_task(rows)
    assert not curate.curate(config(folder)).examples
    (folder / "task.yaml").write_text(TASK + "personal: mask\n")
    curated = curate.curate(config(folder))
    assert len(curated.examples) == 12
    assert all("[EMAIL_ADDRESS]" in example.user_text for example in curated.examples)
    assert not any("@example.org" in store.dumps(example) for example in curated.examples)
    assert curated.readings[0].changes["personal data replaced by its kind"] == 12
    decided(folder, curated, "keep")
    again = curate.curate(config(folder))
    assert {example.meta["review"]["decision"] for example in again.examples} == {"keep"}
    assert all("[EMAIL_ADDRESS]" in example.user_text for example in again.examples)
    make_task([chat(sentence(n + 20), id=f"r{n}") for n in range(12)])
    (folder / "task.yaml").write_text(TASK + "personal: mask\n")
    other = curate.curate(config(folder))
    assert not any("review" in example.meta for example in other.examples)


def numbered(shape, labelled):
    """80 rows; those that `labelled` picks hold a number of one shape, written as phones are."""
    for number in range(80):
        text = sentence(number)
        if labelled(number):
            text += " " + shape.format(number)
        yield chat(text, "yes" if number < 40 else "no")


def test_numbers_of_one_shape_in_one_label_are_codes_and_the_manifest_says_so(
    make_task, config, home
):
    shape = "0301 2345 {:02}9"
    folder = make_task(list(numbered(shape, lambda number: number < 40)))
    curated = curate.curate(config(folder))
    assert sum(row.rejected.get("contains_pii", 0) for row in curated.funnel) == 0
    assert any("rows of label yes hold numbers like" in note for note in curated.warnings)


@pytest.mark.parametrize(
    ("shape", "labelled"),
    [
        ("0301 2345 {:02}9", lambda number: True),  # in both labels
        ("0301 2345 {:02}9", lambda number: number < 12),  # in few rows of the label
        ("ring 0301 2345 {:02}9", lambda number: number < 40),  # called so
        ("+49 301 2345 {:02}9", lambda number: number < 40),  # written so
    ],
)
def test_peoples_numbers_are_no_codes(make_task, config, home, shape, labelled):
    curated = curate.curate(config(make_task(list(numbered(shape, labelled)))))
    lost = sum(row.rejected.get("contains_pii", 0) for row in curated.funnel)
    assert lost == sum(map(labelled, range(80)))


def test_a_label_that_loses_all_of_its_test_rows_to_one_rule_stops(
    make_task, config, home, sentences
):
    parts = ["test", "validation", *["train"] * 8]
    rows = []
    for number, text in enumerate(sentences(80)):
        if number < 50 and parts[number % 10] == "test":
            text += " write to ann@example.org"
        label = "yes" if number < 50 else "no"
        rows.append(chat(text, label, split=parts[number % 10]))
    with pytest.raises(WorkbookError, match=r"'yes' of label would lose all of its 5 test rows"):
        curate.curate(config(make_task(rows), wipeout_share=0.5))


# --- what users corrected -------------------------------------------------------------------------


def test_a_users_correction_is_asked_in_review_and_learnt_once_it_is_decided(
    make_task, config, home, sentences
):
    from helpers.records import LateFeedback, LiveRow

    texts = sentences(23)
    folder = make_task([chat(text) for text in texts[3:]])
    moment = "2026-11-05T10:00:00+00:00"
    system = {"role": "system", "content": "Answer with JSON."}
    log = [
        LiveRow(
            request_id=f"req-{number}",
            created_at=moment,
            messages=[system, {"role": "user", "content": texts[number]}],
            answer='{"label":"no"}',
        )
        for number in range(3)
    ]
    right = '{"label":"yes"}'
    log.append(LateFeedback(request_id="req-1", at=moment, correction=right))
    log.append(LateFeedback(request_id="req-2", at=moment, comment="hm", correction=""))
    store.write_jsonl(home / "live" / "toy" / "2026-11-05.jsonl", log)

    curated = curate.curate(config(folder))
    (asked,) = [row for row in curated.review if row["why"] == "corrected by a user"]
    assert (asked["id"], asked["input"]) == ("req-1", texts[1])
    assert asked["corrected_output"] == right and asked["output"] == '{"label":"no"}'
    assert {example.source for example in curated.examples} == {"human"}
    assert curated.readings[-1].file == "live/toy" and curated.readings[-1].rows == 1

    with open(folder / "review.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["id", "decision", "corrected_output", "reviewer"])
        writer.writeheader()
        fixed = {"decision": "fix", "corrected_output": right, "reviewer": "ann"}
        writer.writerow({"id": "req-1"} | fixed)
    curated = curate.curate(config(folder))
    (learnt,) = [example for example in curated.examples if example.source == "production"]
    assert (learnt.id, learnt.answer, learnt.part) == ("req-1", right, "train")
    assert learnt.quality == "verified" and learnt.messages[0].role == "user"
    assert not any(row["id"] == "req-1" for row in curated.review)
    (folder / "review.csv").write_text("id,decision\nreq-1,drop\n")
    assert {example.source for example in curate.curate(config(folder)).examples} == {"human"}
