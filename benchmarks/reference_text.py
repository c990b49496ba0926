"""The hand-written half of docs/artifacts.md and docs/task.md; make_docs.py puts it together."""

from __future__ import annotations

from typing import NamedTuple

# What a field means that has no comment beside it in the code.
MEANINGS = {
    "Environment.ready": "whether nothing is missing",
    "Environment.checks": "the doctor's checks",
    "Environment.budget": "what the tutorial allows itself, and what this task takes",
    "Environment.versions": "on what this run was made",
    "Finding.name": "what was judged",
    "Finding.verdict": "it holds, it does not hold, or the evidence does not decide",
    "Finding.evidence": "what was seen, in a sentence",
    "Finding.severity": "for what did not pass: good to know, look, or act",
    "Finding.remedy": "what to do about it",
    "Finding.estimate": "the number that was judged",
    "Finding.threshold": "what that number was held against",
    "Estimate.value": "the number itself",
    "Estimate.low": "lower end of the 95% interval",
    "Estimate.high": "upper end of the 95% interval",
    "Estimate.n": "rows behind it; 0: nothing was measured",
    "Allowance.what": "what is limited, such as the longest prompt",
    "Allowance.unit": "tokens or rows",
    "Allowance.largest": "the largest amount found",
    "Allowance.limit": "what the tutorial is made for",
    "Versions.python": "version of Python",
    "Versions.packages": "version of each base package",
    "Versions.commit": "commit of the code; `+changes`: files differed from it",
    "Decision.recommendation": "what to do",
    "Decision.status": "expected from cheaper rungs, or shown by 04",
    "Decision.targets_met": "whether a cheaper rung surely meets every target",
    "Decision.trainer": "who should train",
    "Decision.reasons": "why, one sentence each",
    "Decision.warnings": "what to know before trusting it",
    "Decision.next_action": "what to do next",
    "Decision.rungs": "every rung that was asked, cheapest first",
    "Decision.comparisons": "the rungs against each other, on the same rows",
    "Decision.economics": "what each way costs",
    "Decision.power": "what the test part can show",
    "Decision.plan": "who looks after it",
    "Decision.screening": "the answers of the questionnaire",
    "Decision.train_anyway_because": 'the reason given for training all the same; "": none',
    "RungResult.name": "the rung; `rung@model` where another model was asked",
    "RungResult.model": "which model answered",
    "RungResult.part": "which part was asked: validation or test",
    "RungResult.n": "how many rows were asked",
    "RungResult.results": "what it scored",
    "RungResult.asking": "how it was asked",
    "EvalResults.accuracy": "share of right answers",
    "EvalResults.format_compliance": "share of answers of the required form",
    "EvalResults.latency_p50": "ms; half of the answers come sooner",
    "EvalResults.latency_p95": "ms; 95 of 100 answers come sooner",
    "EvalResults.cost_per_request": "USD; n = 0: no price is known",
    "EvalResults.quality_scores": "further scores, such as `empty`, `refusal`, `field_NAME`",
    "Asking.rung": "the rung; `rung@model` where it names another model too",
    "Asking.few_shot_k": "solved examples in a few_shot prompt",
    "Asking.few_shot_pick": "the same examples for all rows, or the most similar ones for each",
    "Asking.rag_k": "passages in a rag prompt",
    "Asking.rag_shots": "solved examples in a rag prompt, each with its passages",
    "Asking.rag_dense": "weight of meaning in the search: 0 words alone, 1 meaning alone",
    "Asking.template_args": "further arguments of the chat template",
    "Asking.tools": "tools that the model may call, as OpenAI describes them",
    "Asking.max_new_tokens": "the longest answer, in tokens",
    "Asking.stop": "texts that end an answer",
    "Asking.decoding": "how the next token is chosen",
    "Asking.compute": "the numbers that the model calculates with",
    "RungComparison.rung": "the rung",
    "RungComparison.against": "the rung it is compared with",
    "RungComparison.accuracy": "the difference in accuracy",
    "RungComparison.format_compliance": "the difference in format compliance",
    "MetricComparison.difference": "the first minus the other; n counts the rows of both",
    "MetricComparison.method": "how the interval was calculated",
    "MetricComparison.lost": "rows right only with the other",
    "MetricComparison.margin": "how much may be lost",
    "MetricComparison.verdict": "surely better than asked, surely not, or not decided",
    "Economics.break_even_requests_per_month": "requests a month from which tuning is cheaper than"
    " the best rung; null: it never is",
    "Economics.break_even_against": "the same against each rung",
    "Economics.ways": "cost of each rung, and of tuning",
    "Economics.predicted_tuned_cost_per_request": "USD, until 04 has measured it",
    "Economics.one_off_usd": "work before a tuned model serves",
    "Economics.monthly_usd": "work a month while it serves",
    "Economics.training_usd": "one training run",
    "Economics.hours": "hours of work that were assumed",
    "Economics.volume_per_month": "requests a month, from task.yaml",
    "Economics.prices_as_of": "date of the prices",
    "Way.cost_per_request": "USD",
    "Way.one_off_usd": "USD of work before it serves",
    "Way.monthly_usd": "USD of work a month",
    "Way.elapsed": "time until it stands: hours, days, weeks or months",
    "Power.n": "rows of the test part",
    "Power.detectable_difference": "smallest gain it can show",
    "Power.rows_needed": "by metric: rows that its target needs at least",
    "Plan.owner": "who looks after it",
    "Plan.cadence": "how often",
    "Plan.review_on": "when to decide anew",
    "Plan.hours_per_month": "hours of work a month",
    "Plan.time_to_build": "time until it stands",
    "Screening.new_knowledge": "facts are missing (speaks against tuning)",
    "Screening.format_or_style": "one fixed format or style (for)",
    "Screening.domain_terms": "terms and codes of its own (for)",
    "Screening.shorter_prompt": "a long prompt could become short (for)",
    "Screening.one_off": "done once (against)",
    "Screening.changing_requirements": "rules change often (against)",
    "Screening.own_architecture": "no existing model fits",
    "Screening.warnings": "answers that task.yaml overruled",
    "DatasetPointer.version": "name of the folder in datasets/",
    "DatasetPointer.fingerprint": "hash of its content; must equal the manifest's",
    "Manifest.version": "name of the folder: task and fingerprint",
    "Manifest.created_at": "when it was published",
    "Manifest.task": "name of the task",
    "Manifest.params": "the parameters of 02",
    "Manifest.counts": "kept rows by source",
    "Manifest.funnel": "rows in, out and rejected, by stage and source",
    "Manifest.splits": "kept rows by part",
    "Manifest.fingerprint": "hash of all kept rows",
    "Manifest.tool_versions": "packages that decided about rows",
    "Manifest.readings": "what was read, and how: each source file",
    "SourceReading.file": "its name in the task's folder",
    "SourceReading.source": "human or production",
    "SourceReading.rows": "rows that were read, whatever became of them",
    "SourceReading.format": "form of the rows: chat, columns, alpaca and so on",
    "SourceReading.columns": "the columns that were mapped, judged, or not used",
    "ColumnReading.name": "the column",
    "ColumnReading.use": "our name for it, or `not used`",
    "Manifest.labels": "field -> part -> label -> rows",
    "Manifest.feedback": "who rates, and who wrote the logged answers",
    "Manifest.warnings": "what to know before using it",
    "FunnelRow.stage": "read, filter, review, check, duplicates, leakage",
    "FunnelRow.source": "human, production or synthetic",
    "FunnelRow.rows_in": "rows that came in",
    "FunnelRow.rows_out": "rows that went on",
    "FunnelRow.rejected": "issue code -> rows; each row counts under its first code",
    "Splits.train": "rows to learn from",
    "Splits.validation": "rows for choices",
    "Splits.test": "rows that 04 alone reads",
    "TrainedModel.model_id": "what the serving side calls it",
    "TrainedModel.version": "its id in the registry",
    "TrainedModel.provider": "`local`, or the provider of the job",
    "TrainedModel.base_model": "what was tuned",
    "TrainedModel.base_url": 'the endpoint that serves it; "": this machine',
    "TrainedModel.dataset_version": "what it learnt from",
    "TrainedModel.fingerprints": "template, tokenizer and system prompt it was trained with",
    "TrainedModel.hyperparameters": "every setting that decides the result",
    "TrainedModel.tokens": "tokens trained on, all epochs",
    "TrainedModel.seconds": "time of the training",
    "TrainedModel.cost_usd": "cost of the training",
    "TrainedModel.losses": "last train loss, lowest validation loss and its step",
    "TrainedModel.details": "memory, speed, what was checked after training; the job's id",
    "Evaluation.base_model": "the base model with the short prompt",
    "Evaluation.fine_tuned_model": "the tuned model",
    "Evaluation.comparison": "by metric: tuned minus the best cheaper rung",
    "Evaluation.n_test": "rows of the test part that were asked",
    "Evaluation.rungs": "everything that was asked here",
    "Evaluation.best_rung": "the rung to beat, as 01 chose it",
    "Evaluation.verdict": "the final word",
    "Evaluation.reasons": "why, one sentence each",
    "Evaluation.min_gain": "the gain that was asked for",
    "Evaluation.attempt": "which attempt of the year this is",
    "Evaluation.slices": "pass: surely better there; fail: surely worse",
    "Evaluation.fingerprints": "template, tokenizer and system prompt that were used",
    "Evaluation.dataset_version": "whose test part was asked",
    "Evaluation.version": "the tuned model's id in the registry",
    "Evaluation.timing": "seconds by rung; differs from run to run",
    "Attempt.number": "1 for the first of the past year",
    "Ratings.by": "a model, or people",
    "Ratings.rated": "pairs that were rated",
    "Ratings.kappa_rows": "pairs that both rated",
    "Ratings.cost_usd": "what the judge cost",
    "Ratings.warnings": "what to know before trusting it",
    "Promotion.version": "the candidate",
    "Promotion.target": "where it was to go",
    "Promotion.verdict": "what the gate said",
    "Promotion.promoted": "whether it went there",
    "Promotion.rules": "every rule of the gate",
    "Promotion.reasons": "the rules that did not pass",
    "Promotion.generation": "the route's number after this change",
    "Promotion.forced": "promoted against the gate, by a person, with a reason",
    "Parity.version": "which version was checked",
    "Parity.checked_at": "when",
    "Parity.latency_p50": "ms; half of the answers come sooner",
    "Parity.latency_p95": "ms; 95 of 100 answers come sooner",
    "Health.verdict": "whether all is well",
    "Health.reasons": "the checks that did not pass, or why there is nothing to check",
    "Health.checks": "a failed critical one asks for a retrain, a failed warning for a look",
    "Health.version": "the version in production; null: none",
    "Health.window": "the days that were judged",
    "Health.simulated": "whether the traffic is a simulation",
    "Health.unreadable": "log lines that could not be read",
    "Window.start": "first moment",
    "Window.end": "last moment",
    "Window.days": "its length",
    "Window.files": "the logs that were read",
    "RunRecord.run_id": "the folder's name",
    "RunRecord.profile": "the profile's name, which is also its file's",
    "RunRecord.status": "how far it is, or how it ended",
    "RunRecord.reason": "why it ended so",
    "RunRecord.verdict": "the gate's word, where 05 was reached",
    "RunRecord.exit_code": "what the command ended with",
    "RunRecord.started_at": "when it began",
    "RunRecord.finished_at": "when it ended",
    "RunRecord.notebooks": "each notebook, in order",
    "RunRecord.versions": "on what it was made",
    "NotebookEntry.name": "the notebook",
    "NotebookEntry.status": "how far it is; reused: finished before, with the same inputs",
    "NotebookEntry.seconds": "how long it took",
    "NotebookEntry.attempts": "how often it was started",
    "AnswerRow.id": "of the example",
    "AnswerRow.group": "of the example",
    "AnswerRow.answer": "what the model said",
    "AnswerRow.scores": "score by name, each from 0 to 1",
    "AnswerRow.format_reason": "why the format is refused; null: it is not",
    "AnswerRow.latency_ms": "time of the answer",
    "AnswerRow.tokens_in": "length of the prompt; 0: unknown",
    "AnswerRow.tokens_out": "length of the answer; 0: unknown",
    "AnswerRow.error": "why there is no answer",
    "Expense.key": "one thing that is paid once",
    "Expense.reserved": "USD at most",
    "Expense.spent": "USD in truth; null: not known yet",
    "TrainingExample.id": "the row's own id, else a hash of its content",
    "TrainingExample.messages": "the conversation; the answer is the last turn",
    "TrainingExample.source": "where it came from",
    "TrainingExample.quality": "whether a person knows that it is right",
    "TrainingExample.created_at": "when it was written",
    "TrainingExample.part": "which part it belongs to",
    "TrainingExample.parent_id": "the row that it was made from",
    "TrainingExample.feedback_score": "how users rated the answer, 1 to 5",
    "TrainingExample.meta": "file and line it came from, and columns that were kept",
    "Message.role": "who speaks",
    "Message.content": "the text",
    "Message.tool_calls": "calls of tools, as OpenAI writes them",
    "Message.tool_call_id": "the call that a tool's message answers",
    "Message.name": "name of the speaker",
    "TrainingExample.preference": "what somebody thinks of the answer",
    "Preference.label": "whether the answer was liked",
    "Preference.rejected": "the answer that is worse than this one",
    "RejectedExample.issues": "what is wrong with it; the funnel counts the first",
    "RejectedExample.stage": "the stage that rejected it",
    "RejectedExample.rule_version": "which rules were in force",
    "Issue.code": "the issue code; the glossary lists them",
    "Issue.evidence": "what was seen, without its value",
    "Issue.matched_id": "the row that it repeats",
    "Issue.score": "how similar the two are",
    "FineTunedModelVersion.id": "its name everywhere",
    "FineTunedModelVersion.task": "the task; demo/NAME for shipped ones",
    "FineTunedModelVersion.run_id": "the run that made it",
    "FineTunedModelVersion.model_id": "what the serving side calls it",
    "FineTunedModelVersion.base_model": "what was tuned",
    "FineTunedModelVersion.trained_at": "when its training began",
    "FineTunedModelVersion.dataset_version": "what it learnt from",
    "FineTunedModelVersion.eval_results": "what 04 measured",
    "FineTunedModelVersion.status": "where in its life it is",
    "FineTunedModelVersion.metadata": "provider, files and their hashes, reasons",
    "Task.name": "small letters, digits and underscores; its name in the registry",
    "Task.instructions_full": "the prompt with every rule",
    "Task.instructions_short": "what is left to say to a tuned model; the full ones if missing",
    "Task.schema_": "JSON Schema of an answer; `output: {text: true}` for free text",
    "Task.scored_fields": "fields that must equal the gold; all of the schema if missing",
    "Task.accuracy_from": "who says whether an answer is right",
    "Task.targets": "what the work needs, by metric",
    "Task.slices": "fields of the live log, such as a country: 06 watches quality within each too",
    "Task.margins": "what a replacement may lose, by metric",
    "Task.replace": "whether a new model must be better, or only no worse",
    "Task.columns": "your names of our columns, see below",
    "Task.format": "the form of the rows; judged by what they hold where it is not said",
    "Task.encoding": "of text files; judged by their bytes where it is not said",
    "Task.parts_by_time": "first day of validation and of test; by a hash of the group if missing",
    "Task.personal": "whether a row with personal data is left out, or kept with its kind instead",
    "Task.allow": "what looks like personal data and is the task's subject: name, pattern",
    "Task.volume_per_month": "requests a month",
    "Task.prices": "what things cost, see below",
    "Task.data_may_leave": "whether text may be sent to another machine",
    "Task.screening": "answers to 01's questionnaire, see below",
}

ARTIFACTS_HEAD = """
# Artifacts

Every file that the workbook writes for another program, or for you, with all its fields. This page
is made from the code by `python -m benchmarks.make_docs`; a test holds that it is current.

All of it lies in the home: `artifacts/`, or where `WORKBOOK_HOME` points.

```
runs/<run_id>/          run.json and the files that notebooks hand to each other, budget.jsonl,
                        answers/<rung>.jsonl, notebooks/ (executed copies), private/ (mode 0700)
datasets/<version>/     train|validation|test.jsonl, rejected.jsonl, review.csv, card.md,
                        manifest.json
models/<version>/       adapter/, and merged/ or a GGUF file where you exported them
live/<task>/            logs of what serves, a file per day
registry.db             versions, routes, history (or PostgreSQL)
routes.json             which version serves which task: a view of the registry
```

Every artifact has a `schema_version` (now 2), and is read in one way:

```python
from helpers import store
from helpers.records import Evaluation

evaluation = store.Run("my-run").load(Evaluation)
print(evaluation.verdict)
```

A missing, torn or odd file is an error that names the file, the field and the notebook to run.
A file of 0.1.0 has no `schema_version`. It is upgraded while it is read, or refused with the
reason, and never guessed at. A newer file than this workbook knows is refused.

Times are ISO 8601 with a time zone. Where a field has a default, older files may lack it.
"""

ARTIFACTS = {
    "run.json": "What a run does, how far it is, and how it ended. It is written at every step, and"
    " always whole.",
    "environment.json": "What this machine has. When a result looks odd in three months, this file"
    " says on what it was made.",
    "decision.json": "Whether to fine-tune at all, and why. 03 and 04 ask as this file says.",
    "dataset.json": "Which dataset version this run made. The rows are in datasets/.",
    "manifest.json": "The last file of a dataset version. A folder without it is not finished.",
    "model.json": "What was trained, from what, at which cost, and how it is to be asked.",
    "evaluation.json": "Is it better, by how much, are we sure? Two runs with one seed write the"
    " same values, apart from latencies, measured costs and `timing`.",
    "promotion.json": "What was asked of the registry, what the gate said, and what happened.",
    "parity.json": "Does the engine that serves the version answer as the trained model does? The"
    " gate reads it.",
    "health.json": "Is the model in production still good? The runner reads it, to ask whether"
    " there is a reason to retrain.",
}

SHARED = "These are the building blocks of the artifacts above."
OTHER = "One JSON object a line (`.jsonl`), or a row of the registry."


class Lines(NamedTuple):
    """A file of many records."""

    file: str
    text: str


LINES = {
    "AnswerRow": Lines(
        "answers/&lt;rung&gt;.jsonl",
        "One answer a line. Every score of the artifacts can be calculated again from it.",
    ),
    "Expense": Lines(
        "budget.jsonl",
        "The ledger of money. It is only appended to: a line with `key`, `who` and `reserved`"
        " before\nsomething is paid, a line with `key` and `spent` after. Together they give:",
    ),
    "TrainingExample": Lines(
        "train.jsonl, validation.jsonl, test.jsonl", "One kept example a line, in datasets/."
    ),
    "RejectedExample": Lines(
        "rejected.jsonl",
        "A line for each row that was left out. It holds no personal data and no secret.",
    ),
    "FineTunedModelVersion": Lines(
        "A version in the registry", "What `workbook registry list --json` prints, a list of these."
    ),
    "LiveRow": Lines(
        "live/&lt;task&gt;/YYYY-MM-DD.jsonl",
        "The live log, a request a line, written by `workbook serve` or by whatever else serves.\n"
        "02 learns from it and 06 judges by it; both leave `shadow` and `trial` out. Only append,\n"
        "each line in one write; fields that are not named here are passed over. At least\n"
        "`request_id`, `created_at`, `messages` and `answer` should be there. Ten lines that are\n"
        "enough stand in [serving](serving.md#logs-of-systems-that-serve-without-us).",
    ),
    "LateFeedback": Lines(
        "Feedback in the live log",
        "A line of its own in the same files, whenever somebody rates or corrects an answer.",
    ),
    "Replay": Lines(
        "monitor/&lt;task&gt;.replay.jsonl",
        "What serves, asked some of its own test rows again: a line a night, only appended to.\n"
        "Scores and no text; the night's answers stand in the run's answers/test_replay.jsonl.",
    ),
}

ARTIFACTS_FOOT = """
### routes.json

A view of the registry: task -> what serves it. Read it, but do not write it.

| field | meaning |
|---|---|
| `version` | the version in production |
| `model_id`, `provider` | what to load or to ask |
| `since` | when it was put there |
| `previous` | what served before |
| `generation` | rises with every change |
| `base_model`, `artifact`, `sha256` | what it was tuned from, its files and their digest |
| `asking` | how it was measured and has to be asked; absent where its run lies on another machine |
| `endpoint` | the address of the provider that keeps it; absent for a model on this machine |
| `shadow`, `canary` | what is tried beside it, with its share; absent where nothing is |

### review.csv and accept.csv

`review.csv` has a row per doubtful example: `id`, `source`, `input`, `output`, `why`, and for you
`decision` (keep, fix or drop), `corrected_output` and `reviewer`. `accept.csv` has `id` and
`reason` of rejected rows that you take back. Put them into the task folder; the next run of 02
applies them.
"""

IN_YAML = {
    "instructions_full": "instructions.full",
    "instructions_short": "instructions.short",
    "wordings": "instructions.wordings",
    "schema": "output.schema",
}

TASK_HEAD = """
# task.yaml

A task folder says what a model shall do and when it is good enough. This page lists every field of
its task.yaml. It is made from the code by `python -m benchmarks.make_docs`; a test holds that it is
current.

```
mytask/
  task.yaml             this page
  human.jsonl           examples that a person wrote or checked (also .csv, .parquet, .xlsx)
  production.jsonl      logs of what serves today, with ratings (optional)
  knowledge/*.md|txt    articles for retrieval (optional)
  review.csv            decisions of people, from an earlier run (optional)
```

`workbook new mytask --from tickets.csv` writes such a folder from your own file. On a terminal it
asks what the file leaves open, with its guess as the default: which columns hold input and answers
(several: `a,b`), whether an answer is a label, a number or a text, who says that a text is right,
which columns are ratings, times, parts, or what rows of one part have in common, what is good
enough, and whether texts may leave. It then shows what is not used and five rows as the model sees
them.

```
workbook new mytask --from tickets.csv --yes                     # takes every guess, and says it
workbook new mytask --from tickets.csv --input text --output queue,priority \\
    --set kind.priority=labels --set columns.dates=day_first --set targets.accuracy=0.9
```

`--set KEY=VALUE` answers beforehand: any line of task.yaml (`columns.group=customer`), `measure`
(of texts: exact, numeric, chrf, judge, human) or `kind.COLUMN` (labels, text, number). Without a
terminal and without `--yes` nothing is guessed that decides how rows are read; what it might be is
said. Where two readings fit alike, `--yes` guesses neither and names the line; of several
columns of labels it takes the last one of words, and says so. The least that a task.yaml needs:

```yaml
name: mytask
instructions:
  full: Reply with one JSON object, {"label":"yes"} or {"label":"no"}.
  short: Answer yes or no as JSON.
output:
  schema:
    type: object
    required: [label]
    properties:
      label: {enum: ["yes", "no"]}
targets:
  accuracy: 0.8
```

An unknown field, a wrong type and a target that no number of rows can show are errors that name the
line.
"""

TASK_SECTIONS = [
    (
        "What the model is asked",
        "`full` is the best prompt you have: 01 measures it, and the tuned model has to beat it.",
        ["name", "instructions_full", "instructions_short", "wordings", "incumbent"],
    ),
    (
        "What an answer looks like",
        "With a schema, an answer keeps the format when it is one JSON object that the schema"
        " accepts, with\nnothing around it.",
        ["schema", "scored_fields", "accuracy_from", "scorer", "rubric"],
    ),
    (
        "When it is good enough",
        "Write targets before anything is measured, from what the work needs. The metrics are"
        "\n`accuracy` and `format_compliance` (shares, at least), `latency_p95` (ms, at most) and"
        "\n`cost_per_request` (USD, at most).\n\n"
        "```yaml\n"
        "targets:\n"
        "  accuracy: 0.40            # at least\n"
        "  format_compliance: 0.95   # at least\n"
        "  latency_p95: 5000         # ms, at most\n"
        "  cost_per_request: 0.001   # USD, at most\n"
        "```",
        ["targets", "margins", "replace"],
    ),
    (
        "Where it runs and what it costs",
        "Nothing is sent elsewhere or spent, unless you say so here and in the profile.",
        ["volume_per_month", "data_may_leave", "prices", "columns", "slices", "screening"],
    ),
    (
        "What is learnt and asked for of a chat",
        "Which turns carry loss, what the chat template is given, and which tools may be called.",
        ["train_on", "evaluate_on", "reasoning", "template_args", "tools"],
    ),
    (
        "How files are read",
        "Each convention (scale of ratings, order of day and month, encoding, quotes, form of the"
        " rows) is judged over a whole file and shown in 02. Where two readings fit, the run stops"
        " with both and with the line that decides.\n\n"
        "```yaml\n"
        "format: alpaca  # or chat, sharegpt, prompt_completion, kto, preference, columns\n"
        "encoding: cp1251\n"
        "allow: {order_number: '[0-9]{10}'}\n"
        "personal: mask  # [EMAIL_ADDRESS] instead of the address\n"
        "parts_by_time: {validation: 2026-06-01, test: 2026-08-01}  # rows from that day on\n"
        "```\n\n"
        "Numbers of one shape that stand in one label alone, in most of its rows, and are never"
        " called a phone's are taken for its codes; 02 says so. With `personal: mask` a model is"
        " trained on `[PHONE_NUMBER]` and asked about real numbers later: right where they do not"
        " decide the answer. With `parts_by_time` a conversation that crosses a boundary loses its"
        " less protected rows as leaks.",
        ["format", "encoding", "personal", "allow", "parts_by_time"],
    ),
]

TASK_FOOT = """
## prices

```yaml
prices:
  as_of: 2026-11-22             # after 90 days a warning says that they are old
  hardware_usd_per_hour: 0.10   # this machine, or one like it
  person_usd_per_hour: 40       # who labels and reviews
  hosting_usd_per_month: 0      # what keeping a tuned model ready costs
  models:                       # USD per million tokens, for endpoints
    gpt-4.1-mini: {input: 0.40, cached: 0.10, output: 1.60, batch_input: 0.20, batch_output: 0.80}
  training: {gpt-4.1-mini: 5.0} # USD per million trained tokens, for the estimate of 01
  hours: {rag_once: 24}         # work that you estimate otherwise
```

A model that is not named under `models` costs nothing on this machine but its time. A paid endpoint
needs an entry: without one nothing can be bounded, so nothing is sent. `batch_input`,
`batch_output` and `batch_cached` are the prices in a provider's offline batches
(`offline_batches`); without them a batch counts in full.

## columns

Names of your columns where they differ from ours. A path such as
`response.choices.0.message.content` reaches into nested logs.

```yaml
columns:
  input: text                   # the message
  output: {category: label}     # one column, or an object made of several
  id: ticket
  created_at: opened
  group: customer               # rows that belong together
  split: part                   # train, validation or test, where you decide it
  feedback_score: stars
  feedback: {happy: 5, sad: 1}  # what your words of feedback mean, 1 to 5; or [worst, best]
  decimal: ","                  # 1,500 is one and a half
  dates: day_first              # 05/11/2026 is in November; or month_first
  label: verdict                # good or bad: only the good answers are learnt
  articles: sources             # which article holds the answer
  messages: chat                # a whole chat in one column
  system: plan                  # its system message; null where `system` is an ordinary column
```

`input` may be a list of columns, with `template: "{subject}: {body}"` to compose them. An ordinary
column that has the name of one of ours is none of ours with `group: null`. What nothing reads is
listed as "not used" and kept in the row's `meta`. A mapped `input` goes before every other form.

An id that is an e-mail address, a card's number or a key gets a sign in its place, as do such
things in what is kept in `meta`: `[e-mail] eeafdcbbacffbdea`, the same one for the same id in every
file, so that groups, parts and your decisions in review.csv and accept.csv (by your ids or by
these) still fit. Who knows an address can make its sign: better are ids that name nobody. 02 counts
such rows.

Chat lines (`{"messages": […]}`), `prompt` / `completion`, Alpaca, ShareGPT, Gemini's `contents`,
KTO and preference pairs need no mapping, nor does a JSON array of rows; a `system` beside the turns
is their first one, and a request, a response or a message in a column, also as its text, is the
chat that it holds, where known speakers say something and nothing else stands beside it. Classes of
a Hugging Face Parquet file have their names. An answer with `weight: 0` is kept and never learnt, a
`<think>` part is the answer's reasoning, and a system message that differs from row to row stands
below the instructions.

A rating never rejects a row of human.*: badly rated ones stay, and 02 counts them. Ratings choose
among logged rows alone.

## screening

Your answers to the questionnaire of 01, true or false. They go before the parameters of a profile.

```yaml
screening:
  new_knowledge: false
  format_or_style: true
  domain_terms: true
  shorter_prompt: true
  one_off: false
  changing_requirements: false
  own_architecture: false
  owner: support desk           # who will look after the model
```

## incumbent

What answers today, so that a new model has to beat it. Give its prompt, its model, or both; or a
file of its answers, which are found by their question.

```yaml
incumbent:
  instructions: Triage this message …
  model: gpt-4.1-mini
  base_url: https://api.openai.com/v1
```

```yaml
incumbent: {answers: today.jsonl}   # rows like those of human.jsonl, with today's answers
```

## A scorer of your own

Where no field can be compared, `accuracy_from: scorer` and `scorer:` say what is right:
`exact` (case and white space do not count, so it fits no code), `contains`, `numeric:0.01` (the
last number of both within a relative tolerance, whole numbers exactly without one, whatever its
unit, with the decimal mark that `columns.decimal` says; 1,234 alone is asked for; a range, a clock
or a date, which 04/05/2026 is not for it may be two; all numbers of a gold answer of few words;
English number words up to ninety-nine), `chrf:0.6`,
`semantic:0.8` (the least that counts as right), `tool_calls`, or a function of yours:

```yaml
accuracy_from: scorer
scorer: mypackage.scoring:polite
```

```python
def polite(example, answer: str) -> float:
    return float("please" in answer.lower())
```

It gets the example (a `TrainingExample`; its gold is `example.answer`) and the answer's text, and
returns a number from 0 to 1. CONTRIBUTING.md shows how to add one to the workbook itself.

## From a CSV with labels to advice

```
workbook new mytask --from tickets.csv --input text --output queue
# mytask/task.yaml: what the model is told (the labels stand there), which targets the task needs
workbook run -p task=mytask --only 01
```

01 asks a classifier (`classical`) and the language model in every cheaper way, with the nearest
solved examples and a search of six tries; the longest answer follows from your rows. The last lines
say what to do: `classical` or `prompting` where that is surely enough, `not_yet` with the number of
rows that would decide, or *fix labels first* where labels contradict each other. What is not surely
missed is never sent to training. `workbook run -p task=mytask` goes on to train where 01 advises
it. Without a profile one is chosen for task and machine (`laptop` where there is no GPU), and said;
to change a parameter, copy it: `cp params/laptop.yaml mine.yaml`, add `task: mytask`, and
`workbook run mine.yaml`. What limits dropped or cut stands in the last lines of each run.

## Text answers that people rate

`workbook new` writes `output: {text: true}` where the answers are texts. Say who decides: in the
interview, with `--set`, or in task.yaml:

```
workbook new mytask --from letters.csv --input question --output reply --set measure=human \\
    --set "rubric=it answers the question, in our voice, without a promise we cannot keep"
```

```yaml
accuracy_from: human            # or judge, with judge_model in your profile
rubric: it answers the question, in our voice, without a promise we cannot keep
```

```
workbook run -p task=mytask --run-id r1       # asks, writes runs/r1/private/blind.csv: "not yet"
workbook rate r1                              # two answers, nobody knows whose: A, B, both, neither
workbook rate r1 --rater ann                  # a second person: agreement is said
workbook run -p task=mytask --run-id r1       # counts the ratings and goes on
workbook rate r1                              # where it trained: the tuned answers, from 04
workbook run -p task=mytask --run-id r1       # 04's verdict; nothing is trained twice
```

Equal answers are one question, which counts for both. `blind.csv` can be filled in with a
spreadsheet too: save it as `private/ratings.csv`. Ratings of the task itself (`ratings.csv` in its
folder) are used by every run.

## Chats that call tools

One JSON object a line, as OpenAI's API has it: `messages`, of which the last is the gold answer,
with its `tool_calls` or a text; tool results stand as role `tool`; `tools` holds the functions that
may be called. Tools that are the same for every row can stand in task.yaml instead.

```
workbook new mytask --from chats.jsonl         # the calls are shown as the model writes them
workbook run -p task=mytask -p base_model=Qwen/Qwen3-0.6B --only 01
```

```yaml
train_on: all           # learn every answer of a chat; its last one alone: last
evaluate_on: all        # ask for each answer too, with the gold turns before it
reasoning: strip        # thoughts in the rows: left out, kept, or trained
scorer: exact           # of rows whose gold answer is a text; chrf:0.6 is more forgiving
```

Under `evaluate_on: all` 01 and 04 count each answer as a row and each chat as a cluster, so that
an interval is no narrower than the chats allow; answers of weight 0, and earlier ones that are not
of the task's format, are left out, and how many is said.

A call is right when name and arguments are: in any order of calls and of keys, with the types of
the JSON Schema. Arguments that break it, calls of unknown tools and results without a call are
rejected by 02 and named. `base_model` needs a template that knows tools: those of Qwen3, Llama 3
and gpt-oss do; the embedded model's does not, and the run stops with exit 2 and the row that it
cannot read. Where the rendered answer does not read back as the gold one, the row is refused. An
endpoint (`-p base_url=… -p api_model=…`) gets `tools` and is read by its `tool_calls`.
"""
