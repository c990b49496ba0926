import json

import pytest
from toy_curate import chat

from helpers import curate, evaluate, models, store, tasks
from helpers.models import Answer
from helpers.records import Budget, WorkbookError


class Writer:
    """Answers a request for a new example by `write`, and any other question by `tell`'s label."""

    provider, is_loopback, name, fingerprint = "local", True, "writer", "toy-writer"
    spec = "writer"

    def __init__(self, write, tell=lambda text: "yes", dies_after=10**9):
        self.write, self.tell, self.left, self.asked = write, tell, dies_after, []

    def answer(self, chats, max_new_tokens):
        if self.left < len(chats):
            raise RuntimeError("the machine went down")
        self.left -= len(chats)
        self.asked += chats
        return [
            Answer(text=self._say(c), tokens_in=9, tokens_out=9, latency_ms=1.0, finish="stop")
            for c in chats
        ]

    def _say(self, chat):
        asked = chat[-1].content
        if "Write a new one" not in asked:
            return json.dumps({"label": self.tell(asked)})
        shown = json.loads(asked.splitlines()[1])
        return self.write(shown["input"], shown["output"])


def another(text, output):
    """A new input of other words, the output as it was."""
    return json.dumps(
        {"input": f"{tasks.hash_order(text)[:30]} {tasks.hash_order(text)[30:]}", "output": output}
    )


@pytest.fixture
def made(home, make_task, config, sentences, monkeypatch):
    """A function (writer, rows, **changes) -> what 02 would publish, with that model."""

    def make(writer, rows=40, run="r1", **changes):
        monkeypatch.setattr(models, "load_model", lambda *_, **__: writer)
        # Dated rows: without a date of its own a row takes its file's, which is written anew.
        dated = {"created_at": "2026-01-05T08:00:00Z"}
        folder = make_task(
            [chat(s, conversation_id=f"c{i}", **dated) for i, s in enumerate(sentences(rows))]
        )
        settings = {"use_synthetic": True, "synthetic_share": 0.5} | changes
        run = store.open_run(run)
        session = evaluate.Session(tasks.load_task(str(folder)), run, Budget(run))
        return curate.curate(
            config(folder, **settings),
            run,
            lambda prompts, asking: evaluate.ask(prompts, asking, session, "synthetic rows"),
        )

    return make


def synthetic(curated):
    return [e for e in curated.examples if e.source == "synthetic"]


def reasons(curated):
    return {r.issues[0].code for r in curated.rejected if r.example["source"] == "synthetic"}


def test_made_up_rows_are_children_of_human_train_rows_and_may_only_teach(made):
    curated = made(Writer(another))
    human = {e.id: e for e in curated.examples if e.source == "human"}
    rows = synthetic(curated)
    assert rows and len(rows) <= 0.5 * sum(e.part == "train" for e in human.values())
    for row in rows:
        parent = human[row.parent_id]
        assert (row.part, row.quality, parent.part, row.group) == (
            "train",
            "unverified",
            "train",
            parent.group,
        )
    assert len({e.part for e in rows}) == 1
    counted = next(
        row for row in curated.funnel if (row.stage, row.source) == ("leakage", "synthetic")
    )
    assert counted.rows_out == len(rows)


def test_they_are_off_by_default_and_need_a_way_to_ask(home, make_task, config, sentences):
    folder = make_task([chat(s) for s in sentences(20)])
    assert synthetic(curate.curate(config(folder))) == []
    with pytest.raises(WorkbookError, match="way to ask"):
        curate.curate(config(folder, use_synthetic=True))


def test_copies_of_any_row_are_refused_with_the_row_they_match(made):
    curated = made(
        Writer(lambda text, output: json.dumps({"input": text.upper() + " !", "output": output}))
    )
    assert synthetic(curated) == [] and reasons(curated) == {"near_duplicate"}
    refused = [r for r in curated.rejected if r.example["source"] == "synthetic"]
    assert all(r.issues[0].matched_id and r.issues[0].score > 0.6 for r in refused)


def test_a_label_that_does_not_hold_when_asked_again_is_refused(made):
    assert reasons(made(Writer(another, tell=lambda text: "no"))) == {"low_feedback"}


@pytest.mark.parametrize(
    "said",
    [
        "",
        "I would rather not.",
        "{}",
        '{"input": 3, "output": {}}',
        "[" * 5000,
        '{"input": "hello"}',
    ],
)
def test_what_is_no_example_is_refused_and_stops_nothing(made, said):
    curated = made(Writer(lambda text, output: said))
    assert synthetic(curated) == [] and reasons(curated) == {"invalid_format"}


def test_they_pass_the_same_checks_as_every_row(made):
    outside = Writer(
        lambda text, output: another(text, {"label": "perhaps"}), tell=lambda text: "perhaps"
    )
    curated = made(outside)
    assert synthetic(curated) == [] and reasons(curated) == {"invalid_format"}
    private = Writer(
        lambda text, output: json.dumps(
            {"input": f"{tasks.hash_order(text)} a@example.com", "output": output}
        )
    )
    private.fingerprint = "another"  # answers are remembered by it
    assert reasons(made(private)) == {"contains_pii"}


def test_a_run_that_was_stopped_asks_only_for_what_is_missing(made):
    first = Writer(another, dies_after=20)
    with pytest.raises(RuntimeError):
        made(first, rows=80)
    second, whole = Writer(another), Writer(another)
    whole.fingerprint = "never asked before"
    resumed = made(second, rows=80)
    assert synthetic(resumed) == synthetic(made(whole, rows=80))
    assert len(first.asked) + len(second.asked) == len(whole.asked)
    kept = store.read_jsonl(store.open_run("r1").private / "synthetic.jsonl")
    assert {row["id"] for row in kept} >= {e.id for e in synthetic(resumed)}


def test_no_text_leaves_the_machine_unless_the_task_allows_it(made):
    writer = Writer(another)
    writer.is_loopback = False
    with pytest.raises(WorkbookError, match="data_may_leave"):
        made(writer)
    assert writer.asked == []
