"""Does 01 give the right advice? Simulated tasks of which the right advice is known.

    python -m benchmarks.verdicts [--tasks 200] [--seed 0] [--json]

Each task has labels, 200 train, 300 validation and 200 test rows, targets of 80% accuracy and 95%
format, and rungs whose true accuracies are drawn. Their answers are drawn row by row; everything
else is the product's own: which rungs are asked about how many more rows (`next_look`), what is
gathered (`gather`, label noise included) and advised (`recommend`). "not yet" where something else
was right is counted apart from wrong advice: it costs rows, not a training. In the last kind the
prompt is a hair's breadth below the target, so that calling it good enough is the error that all
looks together may make in 2.5% of the cases.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy

from helpers import decide, evaluate, store
from helpers.decide.verdict import gather
from helpers.evaluate.ladder import at_look, next_look
from helpers.records import (
    AnswerRow,
    Asking,
    Estimate,
    EvalResults,
    Message,
    RungResult,
    Screening,
    TrainingExample,
)
from helpers.tasks import Task

LABELS = [f"label{i}" for i in range(6)]
TARGETS = {"accuracy": 0.80, "format_compliance": 0.95}
ROWS = {"train": 200, "validation": 300, "test": 200}
FIRST = 60  # validation rows that each rung is asked at first
GOOD = (0.90, 0.98)  # true accuracies that are enough
POOR = (0.10, 0.62)  # and that surely are not
FORMAT = (0.99, 1.0)
WORDS = 10  # of a question
USUAL = {"format_or_style": True, "domain_terms": True}
RUNGS = ("classical", "zero_shot", "prompt", "few_shot", "rag")
WHEN = datetime(2026, 11, 1, tzinfo=UTC)


class Kind(NamedTuple):
    """A kind of task: the right advice, which rungs are good enough, and what else is true."""

    advice: str
    good: tuple[str, ...] = ()
    uses: Mapping[str, bool] = USUAL
    noise: tuple[float, float] = (0.0, 0.03)  # share of wrong labels
    clear: tuple[float, float] = (0.35, 0.9)  # share of a question's words that tell its label
    because: str = ""  # what the first reason has to name
    articles: bool = False
    also: tuple[str, ...] = ()  # advice that is right as well
    fixed: Mapping[str, float] = {}  # rungs whose true accuracy is not drawn


KINDS = {
    "prompt_good": Kind("prompting", ("prompt",)),
    "nearest_good": Kind("prompting", ("few_shot",)),
    "classical_good": Kind("classical", ("classical",)),
    "tuning_better": Kind("fine_tuning"),
    "nothing_good": Kind("not_yet", uses={}),
    "labels_noisy": Kind("not_yet", noise=(0.28, 0.40), clear=(0.6, 0.9), because="labels"),
    "facts_missing": Kind("rag", uses={"new_knowledge": True}, articles=True),
    "just_short": Kind("not_yet", also=("fine_tuning",), fixed={"prompt": 0.799}),
}


def screening(kind: Kind) -> Screening:
    """The questionnaire as the owner of such a task answers it."""
    return Screening(
        **(dict.fromkeys(Screening.model_fields, False) | {"warnings": []} | kind.uses)
    )


def examples_of(kind: Kind, rng: numpy.random.Generator) -> list[TrainingExample]:
    """Rows whose words tell their label more or less well, some of them labelled wrongly."""
    clear = rng.uniform(*kind.clear)
    noise = rng.uniform(*kind.noise)
    examples = []
    for part, n in ROWS.items():
        for i in range(n):
            label = int(rng.integers(len(LABELS)))
            words = []
            for _ in range(WORDS):
                owner = label if rng.random() < clear else int(rng.integers(len(LABELS)))
                words.append(f"w{owner}x{rng.integers(25)}")
            if rng.random() < noise:
                label = (label + int(rng.integers(1, len(LABELS)))) % len(LABELS)
            answer = json.dumps({"label": LABELS[label]})
            examples.append(
                TrainingExample(
                    id=f"{part}{i}",
                    messages=[
                        Message(role="user", content=" ".join(words)),
                        Message(role="assistant", content=answer),
                    ],
                    source="human",
                    quality="verified",
                    created_at=WHEN,
                    group=f"{part}{i}",
                    part=part,  # type: ignore[arg-type]
                    meta={"articles": ["a"]} if kind.articles else {},
                )
            )
    return examples


def accuracies(kind: Kind, rng: numpy.random.Generator) -> dict[str, float]:
    """What each rung truly gets right."""
    shares = {}
    for rung in RUNGS:
        shares[rung] = rng.uniform(*(GOOD if rung in kind.good else POOR))
    if kind.articles:
        shares |= {name: rng.uniform(0.05, 0.3) for name in RUNGS if name != "rag"}
        shares["rag"] = rng.uniform(0.5, 0.7)
    elif "rag" not in kind.good:
        shares.pop("rag")  # a task without articles
    if kind.noise[0]:  # an answer that is right counts as wrong where the label is
        noise = sum(kind.noise) / 2
        shares = {name: share * (1 - noise) for name, share in shares.items()}
    return shares | kind.fixed


def rung_result(name: str, hits: Any, forms: Any, n: int, run: store.Run) -> RungResult:
    """A rung asked about the first n validation rows, with its answers written down."""
    rows = []
    for i in range(n):
        scores = {"accuracy": float(hits[i] and forms[i]), "format_compliance": float(forms[i])}
        rows.append(
            AnswerRow(
                id=f"validation{i}",
                group=f"validation{i}",
                answer="",
                scores=scores,
                latency_ms=1.0,
                tokens_in=1,
                tokens_out=1,
            )
        )
    path = f"answers/{name}.jsonl"
    store.write_jsonl(run.path(path), [row.model_dump(exclude_none=True) for row in rows])
    nothing = Estimate(value=0.0, low=0.0, high=0.0, n=0)
    return RungResult(
        name=name,
        model="simulated",
        part="validation",
        n=n,
        results=EvalResults(
            accuracy=evaluate.proportion([row.scores["accuracy"] for row in rows]),
            format_compliance=evaluate.proportion([float(forms[i]) for i in range(n)]),
            latency_p50=nothing,
            latency_p95=nothing,
            cost_per_request=nothing,
        ),
        tokens_per_request=100.0,
        answers=path,
        asking=Asking().for_rung(name, "simulated"),
    )


def climb(task: Task, shares: Mapping[str, float], run: store.Run, rng: Any) -> list[RungResult]:
    """Every rung on the first rows, undecided ones on more, look by look, as `ask_more` does."""
    results = {}
    total = ROWS["validation"]
    draws = {}
    for name, share in shares.items():
        forms = rng.random(total) < (1.0 if name == "classical" else rng.uniform(*FORMAT))
        draws[name] = (rng.random(total) < share, forms)
        results[name] = at_look(task, rung_result(name, *draws[name], FIRST, run), total)
    look = next_look(task, run, results, total)
    while look is not None:
        for name in look.rungs:
            result = rung_result(name, *draws[name], look.n, run)
            results[name] = at_look(task, result, total, results[name])
        look = next_look(task, run, results, total)
    return list(results.values())


def judge(kind: Kind, task: Task, rng: numpy.random.Generator) -> tuple[str, int]:
    """(right, not_yet or wrong; rows that all rungs were asked about) on one simulated task."""
    run = store.open_run("simulated")
    rungs = climb(task, accuracies(kind, rng), run, rng)
    asked = sum(rung.n for rung in rungs)
    evidence = gather(task, rungs, examples_of(kind, rng), run, decide.Choices())
    advice = decide.recommend(screening(kind), evidence)
    names_it = any(kind.because in reason for reason in advice.reasons)
    if advice.recommendation in (kind.advice, *kind.also) and names_it:
        return "right", asked
    return "not_yet" if advice.recommendation == "not_yet" else "wrong", asked


def simulate(kind: Kind, tasks: int, seed: int) -> Counter[str]:
    """How often each outcome came in so many tasks, and the rows asked in all of them."""
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["WORKBOOK_HOME"] = folder
        schema = {
            "type": "object",
            "required": ["label"],
            "properties": {"label": {"enum": LABELS}},
        }
        task = Task(
            name="simulated",
            folder=Path(folder),
            shipped=False,
            instructions_full="x",
            instructions_short="x",
            schema=schema,
            scored_fields=["label"],
            targets=TARGETS,
        )
        rng = numpy.random.default_rng(seed)
        for _ in range(tasks):
            outcome, asked = judge(kind, task, rng)
            outcomes[outcome] += 1
            outcomes["rows"] += asked
    return outcomes


def main() -> None:
    """Print the table, or the figures as one object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=200, help="simulated tasks of each kind")
    parser.add_argument("--seed", type=int, default=0, help="another one, other tasks")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    figures = {}
    for number, (name, kind) in enumerate(KINDS.items()):
        if name not in options.kinds:
            continue
        outcomes = simulate(kind, options.tasks, 1000 * options.seed + number)
        for outcome, better in (("right", "higher"), ("not_yet", "lower"), ("wrong", "lower")):
            hits = [float(i < outcomes[outcome]) for i in range(options.tasks)]
            share = evaluate.proportion(hits)
            figures[f"{outcome}_{name}"] = {
                "kind": "rate",
                "value": share.value,
                "low": share.low,
                "high": share.high,
                "n": options.tasks,
                "unit": "share of tasks",
                "better": better,
            }
        if not options.json:
            rows = round(outcomes.pop("rows") / options.tasks)
            print(f"{name:15} {dict(outcomes)}, {rows} answers a task", flush=True)
    if options.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
