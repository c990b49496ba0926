"""Line 10: what people wrote stands in no manifest, card or table, however few the answers."""

from __future__ import annotations

import pytest
from toy_curate import config  # noqa: F401 (a fixture)

from helpers import curate, store

TEXT = """
name: toy
instructions: {full: "Answer.", short: "A."}
output: {text: true}
accuracy_from: human
targets: {accuracy: 0.8}
"""
FIELD = """
name: toy
instructions: {full: "Answer with JSON.", short: "JSON."}
output:
  schema:
    type: object
    properties: {kind: {enum: [a, b]}, note: {type: string}}
targets: {accuracy: 0.8}
"""


def rows(distinct: int, each: int, answer: str) -> list[dict[str, object]]:
    """`distinct` answers, each in `each` rows."""
    return [
        {
            "id": f"r{n}-{again}",
            "messages": [
                {"role": "user", "content": f"question {n} {again} about {'xyz'[n % 3] * (n + 4)}"},
                {"role": "assistant", "content": answer.format(n=n)},
            ],
        }
        for n in range(distinct)
        for again in range(each)
    ]


@pytest.mark.parametrize(
    ("yaml", "answer", "each"),
    [
        (TEXT, "Dear Ms Lindqvist-{n}, your test was positive", 1),
        (TEXT, "Dear Ms Lindqvist-{n}, we are very sorry that your parcel never came", 4),
        (TEXT, "lindqvist{n}@example.com", 4),
        (FIELD, '{{"kind": "a", "note": "Ms Lindqvist-{n} called"}}', 1),
        (FIELD, '{{"kind": "b", "note": "Ms Lindqvist-{n} wants her money back, and soon"}}', 4),
    ],
)
def test_line_10_free_text_stands_in_no_table(home, tmp_path, config, yaml, answer, each):  # noqa: F811
    folder = store.make_folder(tmp_path / "task")
    (folder / "task.yaml").write_text(yaml)
    store.write_jsonl(folder / "human.jsonl", rows(8, each, answer))
    curated = curate.curate(config(folder))
    dataset = curate.publish_dataset(curated)
    version = home / "datasets" / dataset.metadata.version
    shown = (version / "manifest.json").read_text() + (version / "card.md").read_text()
    shown += str(curated.labels) + str(curated.warnings)
    assert "indqvist" not in shown.lower()
    assert curated.examples or "@" in answer, "rows with addresses are left out"
