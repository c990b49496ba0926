"""From examples to token rows with a loss mask, and the report of what the model will see.

A row is the prompt exactly as it is served, then the answer and its end-of-turn token. Only the
latter two carry loss: the prompt is given at serving time, and a model that never learns to stop
runs on.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

from helpers import models, store
from helpers.curate import judge_provider_file
from helpers.models import control_tokens
from helpers.records import FineTuningDataset, Message, Part, Record, TrainingExample, WorkbookError
from helpers.tasks import Task, hash_order, render
from helpers.train.config import LoraTrainingConfig, OpenAIJobConfig, plan_schedule

IGNORED = -100  # the label of a position without loss
MAX_EVAL_ROWS = 60


class TrainingRow(Record):
    """Token ids of one example and as many labels (IGNORED where no loss is taken)."""

    id: str
    input_ids: list[int]
    labels: list[int]

    @property
    def trained(self) -> int:
        """Tokens that carry loss."""
        return len(self.labels) - self.labels.count(IGNORED)


class Preflight(Record):
    """What the model will see: the rows themselves, and what was checked about them."""

    train: list[TrainingRow]
    validation: list[TrainingRow]
    refused: dict[str, str]  # id -> why this row cannot teach anything
    shortened: list[str]  # ids whose answer was cut at max_length, so that its end is not learnt
    left_out: int  # train rows beyond max_train_tokens
    tokens: int  # of the chosen train rows, all epochs together
    end_token: str  # the end of turn that is learnt; "" when every answer was cut
    round_trip: int  # rows whose tokens are those of the template applied to the whole chat
    samples: dict[str, list[tuple[str, bool]]]  # id -> its text as spans (text, carries loss)
    fingerprints: dict[str, str]
    schedule: dict[str, int]


def encode(tokenizer: Any, prompt: list[Message], answer: str) -> tuple[list[int], list[int]]:
    """(prompt ids as served, answer ids up to and including the end-of-turn token).

    Both are tokenized apart, as serving tokenizes the prompt alone. The end of turn is the
    template's own; a template that does not continue its own prompt (some hide a reasoning part)
    gets answer + eos_token.
    """
    chat = models.as_dicts([*prompt, Message(role="assistant", content=answer)])
    turns = [turn | {"content": turn["content"] or ""} for turn in chat]
    head = tokenizer.apply_chat_template(turns[:-1], add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    tail = answer + tokenizer.eos_token
    if whole.startswith(head):
        tail = whole[len(head) :]
    prompt_ids = models.render_tokens(tokenizer, prompt)
    answer_ids = tokenizer(tail, add_special_tokens=False)["input_ids"]
    controls = control_tokens(tokenizer)
    for position, token in enumerate(answer_ids):
        if token in controls:
            return prompt_ids, answer_ids[: position + 1]
    return prompt_ids, [*answer_ids, tokenizer.eos_token_id]


def token_row(
    prompt_ids: list[int], answer_ids: list[int], most: int | None = None
) -> dict[str, list[int]]:
    """{input_ids, labels} with loss on the answer alone, cut after `most` tokens."""
    labels = [IGNORED] * len(prompt_ids) + answer_ids
    return {"input_ids": (prompt_ids + answer_ids)[:most], "labels": labels[:most]}


def make_row(
    tokenizer: Any, task: Task, example: TrainingExample, config: LoraTrainingConfig
) -> TrainingRow | str:
    """The token row of one example, or why it has none."""
    if not example.answer.strip():
        return "no answer to learn"
    prompt = render(task, example, config.prompt_style)
    text = "\n".join([*(m.content or "" for m in prompt), example.answer])
    for control in control_tokens(tokenizer).values():
        if control and control in text:
            return f"its text holds the control token {control}"
    most = config.max_length
    prompt_ids, answer_ids = encode(tokenizer, prompt, example.answer)
    if len(prompt_ids) >= most:
        return (
            f"no trainable token left: its prompt has {len(prompt_ids)} tokens,"
            f" max_length is {most}"
        )
    return TrainingRow(id=example.id, **token_row(prompt_ids, answer_ids, most))


def choose_rows(
    rows: list[TrainingRow], verified: set[str], epochs: float, max_train_tokens: int
) -> tuple[list[TrainingRow], int]:
    """(the rows that fit into the token budget of all epochs, how many were left out).

    Verified rows first; within both kinds by sha256 of the id, so that a larger budget only adds
    rows.
    """
    ordered = sorted(rows, key=lambda row: (row.id not in verified, hash_order(row.id)))
    chosen = []
    tokens = 0.0
    for row in ordered:
        tokens += epochs * len(row.input_ids)
        if max_train_tokens and tokens > max_train_tokens:
            break
        chosen.append(row)
    return chosen, len(ordered) - len(chosen)


def preflight(
    dataset: FineTuningDataset, task: Task, config: LoraTrainingConfig, show: int = 3
) -> Preflight:
    """Encode the train and validation parts and check what would otherwise fail silently."""
    tokenizer = models.tokenizer_of(config.base_model)
    examples: dict[str, TrainingExample] = {}
    rows: dict[Part, list[TrainingRow]] = {"train": [], "validation": []}
    refused = {}
    for part, part_rows in rows.items():
        for example in dataset.part(part):
            examples[example.id] = example
            row = make_row(tokenizer, task, example, config)
            if isinstance(row, TrainingRow):
                part_rows.append(row)
            else:
                refused[example.id] = row
    verified = {example.id for example in examples.values() if example.quality == "verified"}
    train, left_out = choose_rows(rows["train"], verified, config.epochs, config.max_train_tokens)
    validation, _ = choose_rows(rows["validation"], verified, 1, 0)
    if not train:
        first = next((f": {name} ({reason})" for name, reason in refused.items()), "")
        raise WorkbookError(
            "no trainable row; raise max_length or max_train_tokens."
            f" Rows refused: {len(refused)}{first}"
        )
    ends = {row.labels[-1] for row in train} & set(control_tokens(tokenizer))
    round_trip = 0
    for row in train:
        chat = render(task, examples[row.id], config.prompt_style, answer=True)
        whole = models.render_tokens(tokenizer, chat, False)
        round_trip += whole[: len(row.input_ids)] == row.input_ids
    lengths = [len(row.input_ids) for row in train]
    return Preflight(
        train=train,
        validation=validation[:MAX_EVAL_ROWS],
        refused=refused,
        shortened=[row.id for row in train if row.labels[-1] not in ends],
        left_out=left_out,
        tokens=round(config.epochs * sum(lengths)),
        end_token=tokenizer.decode(sorted(ends)),
        round_trip=round_trip,
        samples={row.id: _spans(tokenizer, row) for row in train[:show]},
        fingerprints=models.template_fingerprints(config.base_model, task, config.prompt_style),
        schedule=plan_schedule(config, lengths),
    )


def _spans(tokenizer: Any, row: TrainingRow) -> list[tuple[str, bool]]:
    """The row's text, cut where loss begins or ends."""
    tokens = zip(row.input_ids, row.labels, strict=True)
    runs = groupby(tokens, key=lambda token: token[1] != IGNORED)
    return [(tokenizer.decode([token for token, _ in run]), carries) for carries, run in runs]


def training_file(
    examples: list[TrainingExample], task: Task, config: OpenAIJobConfig, part: Part = "train"
) -> bytes:
    """The JSONL of a hosted job, as the model will be asked later, judged by every rule we know."""
    lines = []
    problems = []
    for example in examples:
        chat = render(task, example, config.prompt_style, answer=True)
        lines.append(store.dumps({"messages": models.as_dicts(chat)}) + "\n")
        if not example.answer.strip():
            problems.append(f"{example.id}: no answer of the assistant")
    issues = judge_provider_file(lines, lambda text: most_tokens(text.encode()))
    of_lines = [f"{examples[i.line - 1].id}: {i.message}" for i in issues if i.line]
    of_the_file = [issue.message for issue in issues if not issue.line]
    if part == "train" and of_the_file:
        raise WorkbookError(f"{of_the_file[0]}: add some, and run 02 again")
    problems = of_lines + problems
    if problems:
        raise WorkbookError(
            f"the provider would refuse {len(problems)} rows: {'; '.join(problems[:5])};"
            " leave them out in 02"
        )
    return "".join(lines).encode()


def most_tokens(data: bytes) -> int:
    """An upper estimate without the provider's tokenizer: three bytes a token."""
    return -(-len(data) // 3)
