"""Tasks as users bring them, eleven kinds: file -> `workbook new` -> the ladder -> 01's advice.

    python -m benchmarks.kinds [--json] [--embedded [--rows 24]] [--kinds NAME …]

The rows are generated (invented words, no text of anybody), the language model is scripted, so the
right advice is known. Scores are computed a second time by code that shares nothing with the
product's, from the answers files alone. With --embedded the model that ships is asked instead,
about so many rows a rung and no more: which advice is right then follows from its answers, again by
code of its own.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import random
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from helpers import decide, evaluate, store, tasks
from helpers.models import Answer, load_model
from helpers.records import Asking, Budget, Decision, Message, RungResult, TrainingExample

RATIOS = {"train": 0.5, "validation": 0.3, "test": 0.2}
FIRST = 60
TOPICS = ["kalo", "mire", "tosu", "vanti", "ped", "guro"]
FILLER = ["oru", "beta", "semi", "lando", "quis", "tera", "nomi"]
USES = {"format_or_style": True, "domain_terms": True, "shorter_prompt": False}
OTHER = {"new_knowledge": False, "one_off": False, "changing_requirements": False}
Rows = list[dict[str, Any]]
Reply = Callable[[list[Message], str, int], str]  # (chat, gold answer, limit in words) -> answer


class Kind(NamedTuple):
    """A kind of task: its rows, how the language model answers, and what 01 should say."""

    rows: Callable[[random.Random], Rows]
    reply: Reply
    advice: str
    because: str = ""  # what the reasons have to name
    task: tuple[tuple[str, str], ...] = ()  # of task.yaml, beside what `workbook new` infers
    articles: bool = False


class Scripted:
    """Answers by a rule; a word counts as a token, and the limit cuts."""

    provider = "local"
    is_loopback = True
    name = "scripted"
    spec = "scripted"

    def __init__(self, reply: Reply, gold: dict[str, str]) -> None:
        self.reply = reply
        self.gold = gold
        self.fingerprint = store.fingerprint([sorted(gold.items()), reply.__qualname__])

    def answer(self, chats: Sequence[list[Message]], max_new_tokens: int) -> list[Answer]:
        """One answer a chat, in order."""
        answers = []
        for chat in chats:
            question = (chat[-1].content or "").rpartition("\n\n")[2]
            words = self.reply(chat, self.gold[question], max_new_tokens).split(" ")
            cut = len(words) > max_new_tokens
            took = {"tokens_in": 9, "tokens_out": len(words), "latency_ms": 1.0}
            text = " ".join(words[:max_new_tokens])
            answers.append(Answer(text=text, finish="length" if cut else "stop", **took))
        return answers

    def count_tokens(self, chat: list[Message]) -> int:
        """Words."""
        return sum(len((message.content or "").split(" ")) for message in chat)


def _texts(rng: random.Random, topic: str, clear: bool) -> str:
    words = rng.choices(FILLER, k=6)
    if clear:
        words += [topic, f"{topic}n"]
    words += [f"n{rng.randrange(10**6)}x{rng.randrange(10**6)}" for _ in range(4)]
    rng.shuffle(words)
    return " ".join(words)


def labels(n: int = 400, clear: bool = True, noise: float = 0.0, topics: int = 6) -> Any:
    """Rows of (text, label): the label stands in the words, or does not."""

    def rows(rng: random.Random) -> Rows:
        made = []
        for _ in range(n):
            topic = rng.choice(TOPICS[:topics])
            text = _texts(rng, topic, clear)
            if rng.random() < noise:
                topic = rng.choice([other for other in TOPICS[:topics] if other != topic])
            made.append({"text": text, "label": topic})
        return made

    return rows


def numbers(rng: random.Random) -> Rows:
    """Four numeric columns."""
    made = []
    for _ in range(400):
        values = {name: rng.randrange(1, 900) for name in ("north", "south", "east", "west")}
        made.append({"text": _texts(rng, "n", False)} | values)
    return made


def long_texts(rng: random.Random) -> Rows:
    """Answers of 60 to 90 words."""
    made = []
    for _ in range(300):
        answer = " ".join(rng.choices(FILLER, k=rng.randrange(60, 90)))
        made.append({"text": _texts(rng, "n", False), "label": answer})
    return made


def right(chat: list[Message], gold: str, limit: int) -> str:
    """As the gold answer."""
    return gold


def wrong(chat: list[Message], gold: str, limit: int) -> str:
    """No answer that a form could hold."""
    return "I cannot say"


def right_after_examples(chat: list[Message], gold: str, limit: int) -> str:
    """Right where a solved example shares a rare word with the question."""
    last = set((chat[-1].content or "").split()) - set(FILLER)
    shown = {word for turn in chat[1:-1] for word in (turn.content or "").split()}
    return gold if last & shown else "I cannot say"


def right_with_article(chat: list[Message], gold: str, limit: int) -> str:
    """Right in two thirds of the cases, and only with the passage."""
    number = sum(map(ord, chat[-1].content or ""))
    passage = any("Article" in (turn.content or "") for turn in chat)
    return gold if passage and number % 3 else "I cannot say"


KINDS = {
    "intents, words tell them": Kind(labels(), wrong, "classical"),
    "two labels, one of them rare": Kind(labels(topics=2), wrong, "classical"),
    "prompt already good": Kind(labels(clear=False), right, "prompting"),
    "examples and words both tell": Kind(labels(), right_after_examples, "classical"),
    "numeric columns": Kind(numbers, right, "prompting"),
    "long answers": Kind(long_texts, right, "prompting", task=(("accuracy_from", "scorer"),)),
    "text that people judge": Kind(
        long_texts, right, "not_yet", "rated", (("accuracy_from", "human"),)
    ),
    "labels one third wrong": Kind(labels(noise=0.33), wrong, "not_yet", "labels are wrong"),
    "facts in articles": Kind(labels(clear=False), right_with_article, "rag", articles=True),
    "too few rows": Kind(labels(n=90, clear=False), wrong, "not_yet", "min_examples"),
    "nothing cheaper works": Kind(labels(clear=False), wrong, "fine_tuning"),
}


def climb(
    name: str, folder: Path, embedded: int = 0
) -> tuple[Decision, list[RungResult], list[TrainingExample]]:
    """One kind through the product: its file, `workbook new`, the rungs, the advice."""
    kind = KINDS[name]
    rows = kind.rows(random.Random(name))
    source = folder / "data.csv"
    with open(source, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    tasks.new_task(folder / "task", source, "text", ",".join(list(rows[0])[1:]))
    path = folder / "task" / "task.yaml"
    settings = yaml.safe_load(path.read_text(encoding="utf-8")) | dict(kind.task)
    store.write_text(path, yaml.safe_dump(settings, sort_keys=False))
    if kind.articles:
        for topic in TOPICS:
            store.write_text(folder / "task" / "knowledge" / f"{topic}.md", f"Article {FILLER}")
    task = tasks.load_task(str(folder / "task"))
    examples = tasks.with_parts(tasks.load_examples(task).examples, 7, RATIOS)
    if kind.articles:
        examples = [e.model_copy(update={"meta": e.meta | {"articles": ["a"]}}) for e in examples]
    run = store.open_run("kind")
    model: Any = Scripted(kind.reply, {e.user_text: e.answer for e in examples})
    if embedded:
        model = load_model("embedded")
    train = [example for example in examples if example.part == "train"]
    session = evaluate.Session(
        task, run, Budget(run), train, 0, lambda text: None, {model.spec: model}
    )
    basis = Asking(max_new_tokens=0, few_shot_pick="nearest")
    basis = evaluate.with_answer_limit(task, basis, examples, model, session.say)
    rungs = ["classical", "zero_shot", "prompt", "few_shot", "rag"]
    ways = evaluate.ways_to_ask(rungs, basis, task, model)
    every_row = evaluate.choose_rows(task, examples, "validation")
    rows = every_row[: embedded or FIRST]
    measured = evaluate.ask_ladder(ways, rows, session)
    measured = evaluate.ask_more(measured, every_row, session, embedded or 300)
    measured = evaluate.rate_rungs(measured, rows, session)
    screening = decide.screen(task, **USES, **OTHER)
    choices = decide.Choices(prompt_search_budget=1)
    return decide.decide(task, measured, examples, screening, run, choices), measured, examples


def recomputed(rung: RungResult, examples: Sequence[TrainingExample]) -> tuple[float, float, float]:
    """(share, low, high) of right answers, by other code: from the answers file and the rows."""
    gold = {example.id: example.answer for example in examples}
    hits = 0
    answers = answers_of(rung)
    for row in answers:
        try:
            hits += json.loads(row["answer"]) == json.loads(gold[row["id"]])
        except ValueError:
            hits += row["answer"].strip() == gold[row["id"]].strip()
    return wilson(hits, len(answers))


def answers_of(rung: RungResult) -> list[dict[str, Any]]:
    """The rows of a rung's answers file."""
    lines = store.open_run("kind").path(rung.answers).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def wilson(hits: int, n: int) -> tuple[float, float, float]:
    """(share, low, high) of the 95% interval, by the formula in the books."""
    z2 = 1.959964**2
    share = hits / n
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return share, middle - half, middle + half


def confirmed(decision: Decision, measured: list[RungResult], examples: Any) -> bool:
    """Whether the advice follows from the answers, by rules written a second time.

    Targets are 80% accuracy and, of labels, 95% format. Each look of several is stricter than a
    plain interval, so a plain one that decides nothing allows no advice but more rows.
    """
    gold = {example.id: example.answer for example in examples}
    enough, open_ones = [], []
    for rung in measured:
        if not rung.results.accuracy.n:
            return decision.recommendation == "not_yet"
        _, low, high = recomputed(rung, examples)
        forms = []
        for row in answers_of(rung):
            try:
                keys = json.loads(gold[row["id"]]).keys()
            except (ValueError, AttributeError):
                continue  # free text
            try:
                forms.append(json.loads(row["answer"]).keys() == keys)
            except (ValueError, AttributeError):
                forms.append(False)
        _, form_low, form_high = wilson(sum(forms), len(forms)) if forms else (1.0, 1.0, 1.0)
        if rung.name == "classical":  # it can say nothing but a label of the train rows
            form_low = form_high = 1.0
        if low >= 0.8 and form_low >= 0.95:
            enough.append(rung.name)
        elif high >= 0.8 and form_high >= 0.95:
            open_ones.append(rung.name)
    families = {"classical": "classical", "rag": "rag"}
    allowed = {families.get(name, "prompting") for name in enough}
    if not enough or open_ones:
        allowed.add("not_yet")  # rows, wrong labels, missing facts: with its reason
    if not enough and not open_ones:
        allowed |= {"fine_tuning", "rag"}
    return decision.recommendation in allowed


def check(name: str, embedded: int = 0) -> dict[str, Any]:
    """What came out for one kind, and whether advice and scores are right."""
    kind = KINDS[name]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["WORKBOOK_HOME"] = str(Path(folder) / "home")
        decision, measured, examples = climb(name, Path(folder), embedded)
        exact = True
        for rung in measured:
            accuracy = rung.results.accuracy
            if accuracy.n:
                again = recomputed(rung, examples)
                ours = (accuracy.value, accuracy.low, accuracy.high)
                exact &= all(abs(a - b) < 1e-4 for a, b in zip(ours, again, strict=True))
        reasons = " ".join(decision.reasons)
        is_right = decision.recommendation == kind.advice and kind.because in reasons
        if embedded:
            is_right = confirmed(decision, measured, examples)
        else:
            exact &= confirmed(decision, measured, examples)
        return {
            "advice": decision.recommendation,
            "right": is_right,
            "exact": exact,
            "reasons": decision.reasons,
            "next": decision.next_action,
        }


def main() -> None:
    """Print the table, or the figures as one object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--embedded", action="store_true", help="ask the model that ships")
    parser.add_argument("--rows", type=int, default=24, help="of a rung, with --embedded")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    options = parser.parse_args()
    rows = options.rows if options.embedded else 0
    outcomes = {}
    for name in options.kinds:
        outcomes[name] = outcome = check(name, rows)
        if not options.json:
            marks = f"right={outcome['right']} exact={outcome['exact']}"
            print(f"{name:30} {outcome['advice']:12} {marks}")
            print(f"{'':30} {outcome['reasons'][0]}")
            print(f"{'':30} next: {outcome['next']}", flush=True)
    if options.json:
        figures = {}
        for what in ("right", "exact"):
            share = evaluate.proportion([float(outcome[what]) for outcome in outcomes.values()])
            figures[f"kinds_{what}{'_embedded' if rows else ''}"] = {
                "kind": "rate",
                **share.model_dump(),
                "unit": "share of kinds",
                "better": "higher",
            }
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
