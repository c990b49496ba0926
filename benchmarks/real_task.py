"""A real task through `workbook new --from`: restaurant8k, booking turns to JSON slots.

    python -m benchmarks.real_task DIR [--train 400] [--test 200] [--validation 60] [--data FOLDER]
    workbook run DIR/profile.yaml

The first command takes the first rows by sha256 of their id (train and test files keep their own
split; validation is the next rows of the train file), writes them with the columns input =
requested slots + text and output = the slots as JSON, has `workbook new DIR/task --from` infer the
task, fills in what only a person can say (instructions, targets), and writes a profile. The second
runs it: training within 45,000 tokens, about five minutes on two quiet cores. The data (PolyAI,
CC BY 4.0) stay where they are: nothing of them is part of the workbook.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import yaml

from helpers import store
from helpers.records import WorkbookError
from helpers.tasks import new_task

PLACES = [folder / "shared" / "data" / "restaurant8k" for folder in store.PROJECT.parents]
DATA = next((folder for folder in PLACES if folder.exists()), PLACES[0])
SLOTS = ("people", "date", "time", "first_name", "last_name")
FULL = (
    "Reply with JSON only: the booking slots that the message states, copied word for word, as in "
    '{"people":"5 adults","time":"6 pm"}. Slots: people, date, time, first_name, last_name.'
    " Leave out what is not said."
)
SHORT = "Booking slots as JSON."
# Written before anything was measured: a booking form that is filled in rightly half of the time
# saves the host more typing than its corrections cost; what is no JSON leaves the form empty.
TARGETS = {"accuracy": 0.50, "format_compliance": 0.90, "latency_p95": 5000}
PROFILE = """# restaurant8k: real booking turns, with the file's own split (made by benchmarks).
task: {task}               # the folder that `workbook new --from` wrote
trainer: lora              # on this machine
promote_to: staging        # far enough: nothing is served
train_anyway_because: the tuned model is what this benchmark measures  # few_shot is near the target
max_train_tokens: 45000    # about five minutes on two cores
epochs: 2.0                # passes over the 400 rows, within the token limit
batch_size: 4              # small batches: with so few rows the number of steps decides
gradient_accumulation: 1   # a step for every batch
learning_rate: 1.5e-3      # a small model with an adapter bears a large step
lora_dropout: 0.0          # little to over-learn in so few passes
target_modules: [q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj]  # all layers
max_validation_rows: 60    # rows each rung of 01 answers at first
"""


def first_rows(path: Path, count: int, skip: int = 0) -> list[dict[str, Any]]:
    """`count` rows of a file, in the order of sha256(id), after the first `skip`."""
    if not path.exists():
        raise WorkbookError(f"{path} is missing; give the folder of restaurant8k with --data")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows.sort(key=lambda row: hashlib.sha256(row["id"].encode()).hexdigest())
    return rows[skip : skip + count]


def as_row(row: dict[str, Any], part: str) -> dict[str, Any]:
    """One row with the columns that task.yaml maps."""
    text = row["text"]
    if row["requested_slots"]:
        text = f"asked for: {', '.join(row['requested_slots'])}\n{text}"
    slots = {name: row["slots"][name] for name in SLOTS if name in row["slots"]}
    return {
        "id": row["id"],
        "booking": text,
        "slots": json.dumps(slots, ensure_ascii=False),
        "split": part,
    }


def prepare(folder: Path, data: Path, train: int, validation: int, test: int) -> list[str]:
    """Write rows, task and profile; returns what `workbook new` said."""
    parts = {
        "train": first_rows(data / "train.jsonl", train),
        "validation": first_rows(data / "train.jsonl", validation, skip=train),
        "test": first_rows(data / "test.jsonl", test),
    }
    rows = [as_row(row, part) for part, raw in parts.items() for row in raw]
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "restaurant8k.jsonl"
    store.write_jsonl(source, rows)
    messages = new_task(folder / "task", source, "booking", "slots")
    path = folder / "task" / "task.yaml"
    task = yaml.safe_load(path.read_text(encoding="utf-8"))
    text = {"type": "string", "minLength": 1}
    task["name"] = "restaurant8k"
    task["instructions"] = {"full": FULL, "short": SHORT}
    task["output"] = {
        "schema": {
            "type": "object",
            "additionalProperties": False,
            "properties": dict.fromkeys(SLOTS, text),
        }
    }
    task["scored_fields"] = list(SLOTS)
    task["targets"] = TARGETS
    task["screening"] = {
        "format_or_style": True,
        "new_knowledge": False,
        "owner": "whoever runs this benchmark",
    }
    task["prices"] = (task.get("prices") or {}) | {
        "as_of": "2026-11-22",
        "hardware_usd_per_hour": 0.10,
    }
    store.write_text(path, yaml.safe_dump(task, sort_keys=False, allow_unicode=True))
    store.write_text(folder / "profile.yaml", PROFILE.format(task=(folder / "task").resolve()))
    return messages


def main() -> None:
    """Prepare the folder and say how to run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, default=DATA)
    for name, rows in (("train", 400), ("validation", 60), ("test", 200)):
        parser.add_argument(f"--{name}", type=int, default=rows)
    options = parser.parse_args()
    sizes = (options.train, options.validation, options.test)
    for line in prepare(options.folder, options.data, *sizes):
        print(line)
    print(f"now: workbook run {options.folder / 'profile.yaml'}")


if __name__ == "__main__":
    main()
