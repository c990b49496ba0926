"""Every row of every kind of file is accounted for, labels stay, and what changes is counted."""

import csv
import io
import json
from datetime import date

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toy_curate import RATIOS

from helpers import curate, tasks
from helpers.records import Manifest
from helpers.show import curate as views

TASK = (
    "name: toy\ninstructions: {full: Answer., short: Answer.}\noutput: {text: true}\n"
    "targets: {accuracy: 0.8}\n"
)
TEXTS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp"]),
    min_size=1,
    max_size=12,
).filter(lambda text: text.strip() == text and not text.startswith(("sep=", "[")))
SCALES = {
    "thumbs": ([1, 0], [5, 1]),
    "signs": (["+1", "-1"], [5, 1]),
    "stars": ([1, 3, 5], [1, 3, 5]),
    "ten": ([1, 5.5, 10], [1, 3, 5]),
    "words": (["up", "down"], [5, 1]),
    "emoji": (["👍🏽", "👎"], [5, 1]),
    "none": ([None], [None]),
}
LABELS = {
    "text": TEXTS,
    "codes": st.from_regex("0[0-9]{2}", fullmatch=True),
    "yes and no": st.sampled_from(["yes", "no", "NO", "null", "None", "true"]),
    "integers": st.integers(-9, 10**6),
    "objects": st.dictionaries(st.sampled_from("abc"), st.integers() | TEXTS, min_size=1),
    "lists": st.lists(TEXTS, min_size=1, max_size=3),
}
DIALECTS = {
    "csv,": {},
    "csv;": {"delimiter": ";"},
    "csv\t": {"delimiter": "\t"},
    "csv|": {"delimiter": "|", "quoting": csv.QUOTE_ALL},
    "csv\\": {"escapechar": "\\", "doublequote": False, "quoting": csv.QUOTE_ALL},
}
TABLES = [*DIALECTS, "parquet", "xlsx"]
KINDS = ["jsonl", "json", *TABLES]
FORMATS = ["columns", "chat", "prompt_completion", "alpaca", "sharegpt", "preference", "kto"]


def row_of(form, text, label):
    """A row of one form that asks `text` and answers `label`."""
    answer = label if isinstance(label, str) else spelled(label)
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
    return {
        "columns": {"text": text, "label": label},
        "chat": {"messages": turns},
        "prompt_completion": {"prompt": text, "completion": label},
        "alpaca": {"instruction": text, "input": "", "output": label},
        "sharegpt": {
            "conversations": [{"from": "human", "value": text}, {"from": "gpt", "value": answer}]
        },
        "preference": {"prompt": text, "chosen": label, "rejected": "worse"},
        "kto": {"prompt": text, "completion": label, "label": True},
    }[form]


def spelled(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def written(path, kind, encoding, rows):
    """The rows as a file of a kind; a table's cell holds a structure as JSON text."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [
        {name: spelled(v) if isinstance(v, list | dict) else v for name, v in row.items()}
        for row in rows
    ]
    if kind.startswith("csv"):
        text = io.StringIO()
        options = {"lineterminator": "\n", **DIALECTS[kind]}
        writer = csv.DictWriter(text, names, **options)
        writer.writeheader()
        writer.writerows(cells)
        path.write_bytes(text.getvalue().encode(encoding))
    elif kind == "json":
        path.write_bytes(json.dumps(rows, ensure_ascii=False, indent=1).encode(encoding))
    elif kind == "jsonl":
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path.write_bytes(lines.encode(encoding))
    else:
        import pandas as pd

        frame = pd.DataFrame(cells, columns=names).astype(object)
        frame = frame.where(frame.notna(), None)
        for name in names:  # a column has one type in Parquet
            if len({type(value) for value in frame[name] if value is not None}) > 1:
                frame[name] = [None if v is None else str(v) for v in frame[name]]
        frame.to_parquet(path) if kind == "parquet" else frame.to_excel(path, index=False)


@st.composite
def files(draw):
    kind = draw(st.sampled_from(KINDS))
    form = draw(st.sampled_from(FORMATS))
    labels = LABELS[draw(st.sampled_from(sorted(LABELS)))]
    pairs = draw(st.lists(st.tuples(TEXTS, labels), min_size=4, max_size=12))
    if kind == "csv\\":  # without any quote nothing says that two backslashes are one
        pairs = [tuple(v.replace("\\", "/") if isinstance(v, str) else v for v in p) for p in pairs]
    if kind == "xlsx":  # `=…` would be a formula, which is refused
        pairs = [tuple(v.lstrip("=") if isinstance(v, str) else v for v in p) for p in pairs]
        pairs = [tuple("0" if v == "" else v for v in p) for p in pairs]
    return {
        "kind": kind,
        "form": form,
        "encoding": draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])),
        "pairs": pairs,
        "ids": draw(st.sampled_from(["none", "numbers", "texts", "repeated"])),
        "scale": draw(st.sampled_from(sorted(SCALES))),
        "broken": draw(st.sets(st.integers(0, 3), max_size=2)),
        "extra": draw(st.booleans()),
    }


def rows_of(file):
    """The rows, and what each must become: (text, answer, score), or None where it is broken."""
    values, scores = SCALES[file["scale"]]
    rows, expected = [], []
    for number, (text, label) in enumerate(file["pairs"]):
        row = row_of(file["form"], f"{number} {text}", label)
        row["feedback_score"] = values[number % len(values)]
        if file["ids"] != "none":
            row_id = {"numbers": number, "texts": f"id-{number}", "repeated": number % 2}
            row["id"] = row_id[file["ids"]]
        if number in file["broken"]:
            row["created_at"] = "no time"
        if file["extra"]:
            row["priority"] = f"p{number}"
        answer = label if isinstance(label, str) else spelled(label)
        rows.append(row)
        score = scores[number % len(scores)]
        is_broken = number in file["broken"]
        expected.append(None if is_broken else (f"{number} {text}", answer, score))
    return rows, expected


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(file=files())
def test_every_row_is_read_or_named_labels_stay_and_changes_are_counted(tmp_path_factory, file):
    folder = tmp_path_factory.mktemp("any")
    columns = "{input: text, output: label}" if file["form"] == "columns" else "{}"
    (folder / "task.yaml").write_text(TASK + f"columns: {columns}\n")
    rows, expected = rows_of(file)
    ending = "csv" if file["kind"].startswith("csv") else file["kind"]
    path = folder / f"production.{ending}"
    written(path, file["kind"], file["encoding"], rows)
    loaded = tasks.load_examples(tasks.load_task(str(folder)), "production")

    good = [each for each in expected if each is not None]
    assert [(e.user_text, e.answer, e.feedback_score) for e in loaded.examples] == good
    assert loaded.reading.rows == len(rows) == len(loaded.examples) + len(loaded.unreadable)
    assert loaded.reading.format == file["form"]
    assert len({example.id for example in loaded.examples}) == len(good)

    changes = loaded.reading.changes
    assert changes["no created_at: the file's date stands for it"] == len(good)
    is_table = file["kind"] in TABLES
    raw = [label for place, (_, label) in enumerate(file["pairs"]) if place not in file["broken"]]
    chats = ("chat", "sharegpt")
    told = sum(not isinstance(label, str) for label in raw) * (file["form"] not in chats)
    if not is_table:
        assert changes.get("a question or an answer that is no text is its JSON", 0) == told
    doubled = [i for i in range(len(rows)) if i not in file["broken"]]
    same = [i for i in doubled if sum(j % 2 == i % 2 for j in doubled) > 1]
    merged = "rows whose id other rows have too: an id by content is used"
    assert changes.get(merged, 0) == (len(same) if file["ids"] == "repeated" else 0)
    uses = {column.name: column for column in loaded.reading.columns}
    if file["extra"]:
        assert uses["priority"].use == "not used" and f"in {len(good)} rows" in uses["priority"].how
    if file["scale"] != "none":
        assert f"{len(rows)} of {len(rows)} rated" in uses["feedback_score"].how
    table = views.readings_table([loaded.reading]).to_string()
    assert all(change in table for change in changes) and all(name in table for name in uses)


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(file=files(), personal=st.sampled_from(["reject", "mask"]), mails=st.integers(0, 3))
def test_a_dataset_accounts_for_every_row_of_a_file(tmp_path_factory, file, personal, mails):
    folder = tmp_path_factory.mktemp("any")
    columns = "{input: text, output: label}" if file["form"] == "columns" else "{}"
    (folder / "task.yaml").write_text(TASK + f"columns: {columns}\npersonal: {personal}\n")
    texts = [f"{text} ann{n}@example.org" for n, (text, _) in enumerate(file["pairs"][:mails])]
    file["pairs"] = [
        (texts[n] if n < mails else text, label) for n, (text, label) in enumerate(file["pairs"])
    ]
    rows, _ = rows_of(file)
    ending = "csv" if file["kind"].startswith("csv") else file["kind"]
    written(folder / f"production.{ending}", file["kind"], file["encoding"], rows)
    turns = [{"role": "user", "content": "a human row"}, {"role": "assistant", "content": "yes"}]
    (folder / "human.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBOOK_HOME", str(folder / "home"))
        config = curate.DataCollectionConfig(
            task=str(folder), base_model="tiny", split_ratios=RATIOS, wipeout_share=1.0
        )
        curated = curate.curate(config)
        version = curate.publish_dataset(curated).metadata.version
        saved = folder / "home" / "datasets" / version / Manifest.FILE
        manifest = Manifest.parse(json.loads(saved.read_text()), "manifest")
    funnel = [row for row in manifest.funnel if row.source == "production"]
    lost = sum(sum(row.rejected.values()) for row in funnel)
    kept = manifest.counts.get("production", 0)
    assert funnel[0].rows_in == len(rows) == kept + lost and all(row.adds_up for row in funnel)
    masked = [example for example in curated.examples if "masked" in example.meta]
    reading = manifest.readings[-1]
    assert reading.changes.get("personal data replaced by its kind", 0) >= len(masked)
    assert not any("@example.org" in example.user_text for example in curated.examples)


# --- numbers, and parts by time -------------------------------------------------------------------

NUMBERS = TASK.replace(
    "{text: true}",
    "{schema: {type: object, properties: {sum: {type: number}, n: {type: integer}}}}",
)


def sums(folder, values, extra="", counts=()):
    columns = "{input: text, output: {sum: sum, n: n}" + extra + "}"
    (folder / "task.yaml").write_text(NUMBERS + f"columns: {columns}\n")
    lines = [f't{i};"{v}";{counts[i] if counts else ""}\n' for i, v in enumerate(values)]
    (folder / "human.csv").write_text("text;sum;n\n" + "".join(lines))
    return tasks.load_examples(tasks.load_task(str(folder)))


@pytest.mark.parametrize(
    ("values", "mark", "expected"),
    [
        (["1,500", "2,5"], ",", [1.5, 2.5]),
        (["1,500", "2.5"], ".", [1500.0, 2.5]),
        (["1.234,50", "1.500"], ",", [1234.5, 1500.0]),
        (["1.234.567", "1.500"], ",", [1234567.0, 1500.0]),
        (["1 500,5", "-3,25"], ",", [1500.5, -3.25]),
    ],
)
def test_the_decimal_mark_is_judged_over_the_column_and_said(tmp_path, values, mark, expected):
    loaded = sums(tmp_path, values)
    assert [json.loads(example.answer)["sum"] for example in loaded.examples] == expected
    assert ("numbers", f"`{mark}` stands before decimals") in [
        (column.use, column.how) for column in loaded.reading.columns
    ]


@pytest.mark.parametrize("value", ["1,500", "1.500"])
def test_a_number_that_may_be_a_thousand_times_larger_is_asked_for(tmp_path, value):
    with pytest.raises(tasks.task.WorkbookError, match=r"`columns: \{decimal: \"\.\"\}`") as asked:
        sums(tmp_path, [value, value])
    assert asked.value.exit_code == 2 and "column `sum`" in str(asked.value)
    for mark in (",", "."):
        loaded = sums(tmp_path, [value], f', decimal: "{mark}"')
        assert json.loads(loaded.examples[0].answer)["sum"] == (1.5 if mark in value else 1500)


def test_where_integers_are_wanted_the_mark_stands_between_thousands(tmp_path):
    loaded = sums(tmp_path, ["", ""], counts=["1,500", "1,000,000"])
    assert [json.loads(e.answer) for e in loaded.examples] == [{"n": 1500}, {"n": 1000000}]


def test_parts_by_time_put_the_newest_rows_into_the_test(tmp_path):
    lines = [f"text {n},a,{date(2026, n, 1)}\n" for n in range(1, 10)]
    (tmp_path / "human.csv").write_text("text,label,created_at\n" + "".join(lines))
    columns = "columns: {input: text, output: label}\n"
    by_time = "parts_by_time: {validation: 2026-05-01, test: 2026-08-01}\n"
    (tmp_path / "task.yaml").write_text(TASK + columns + by_time)
    examples = tasks.load_examples(tasks.load_task(str(tmp_path))).examples
    parts = [example.part for example in tasks.with_parts(examples, 7, RATIOS)]
    assert parts == ["train"] * 4 + ["validation"] * 3 + ["test"] * 2
    (tmp_path / "human.csv").write_text("text,label\nundated,a\n")
    with pytest.raises(tasks.task.WorkbookError, match="divides the rows by time"):
        tasks.load_examples(tasks.load_task(str(tmp_path)))
    (tmp_path / "task.yaml").write_text(TASK + "parts_by_time: {test: 2026-08-01}\n")
    with pytest.raises(tasks.task.WorkbookError, match="give both days"):
        tasks.load_task(str(tmp_path))
