"""From examples to token rows with a loss mask, and the report of what the model will see before any training.

A row is the prompt exactly as it is served, then the answer and its end-of-turn token. Only the latter two carry
loss: the prompt is given at serving time, and a model that never learns to stop runs on.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

from helpers import models, store
from helpers.curate.provider_file import judge_provider_file
from helpers.models.tokens import control_tokens, tokenizer_of
from helpers.records import FineTuningDataset, Message, Record, TrainingExample, WorkbookError
from helpers.tasks import Task, hash_order, render
from helpers.train.config import LoraTrainingConfig, OpenAIJobConfig, plan_schedule

IGNORED = -100  # the label of a position without loss
MAX_EVAL_ROWS = 60


class TrainingRow(Record):
    """Token ids of one example and, of the same length, the labels (IGNORED where no loss is taken)."""

    id: str
    input_ids: list[int]
    labels: list[int]

    @property
    def trained(self) -> int:
        """Tokens that carry loss."""
        return sum(label != IGNORED for label in self.labels)


class Preflight(Record):
    """What the model will see: the rows themselves, and what was checked about them."""

    train: list[TrainingRow]
    validation: list[TrainingRow]
    refused: dict[str, str]  # id -> why this row cannot teach anything
    shortened: list[str]  # ids whose answer was cut at max_length, so that its end is not learnt
    left_out: int  # train rows beyond max_train_tokens
    tokens: int  # of the chosen train rows, all epochs together
    end_token: str  # the end of turn that is learnt; "" when every answer was cut
    round_trip: int  # rows whose tokens are those of the template applied to the whole conversation
    samples: dict[str, list[tuple[str, bool]]]  # id -> its text in pieces (text, carries loss)
    fingerprints: dict[str, str]
    schedule: dict[str, int]


def encode(tokenizer: Any, prompt: list[Message], answer: str) -> tuple[list[int], list[int]]:
    """(prompt ids as served, answer ids up to and including the end-of-turn token).

    Both are tokenized apart, as serving tokenizes the prompt alone. The end of turn is the template's own; a template
    that does not continue its own prompt (some hide a reasoning part) gets answer + eos_token.
    """
    chat = models.plain([*prompt, Message(role="assistant", content=answer)])
    turns = [turn | {"content": turn["content"] or ""} for turn in chat]
    head = tokenizer.apply_chat_template(turns[:-1], add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template(turns, tokenize=False)
    tail = whole[len(head) :] if whole.startswith(head) else answer + tokenizer.eos_token
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"]
    controls = control_tokens(tokenizer)
    end = next((n for n, i in enumerate(ids) if i in controls), None)
    ids = [*ids, tokenizer.eos_token_id] if end is None else ids[: end + 1]
    return models.render_tokens(tokenizer, prompt), ids


def make_row(
    tokenizer: Any, task: Task, example: TrainingExample, config: LoraTrainingConfig
) -> TrainingRow | str:
    """The token row of one example, or why it has none."""
    if not example.answer.strip():
        return "no answer to learn"
    prompt = render(task, example, config.prompt_style)
    text = "\n".join([*(m.content or "" for m in prompt), example.answer])
    if found := next((c for c in control_tokens(tokenizer).values() if c and c in text), ""):
        return f"its text holds the control token {found}"
    given, learnt = encode(tokenizer, prompt, example.answer)
    if len(given) >= config.max_length:
        return f"no trainable token left: its prompt has {len(given)} tokens, max_length is {config.max_length}"
    ids, labels = given + learnt, [IGNORED] * len(given) + learnt
    return TrainingRow(
        id=example.id, input_ids=ids[: config.max_length], labels=labels[: config.max_length]
    )


def choose_rows(
    rows: list[TrainingRow], verified: set[str], epochs: float, max_train_tokens: int
) -> tuple[list[TrainingRow], int]:
    """(the rows that fit into the token budget of all epochs, how many were left out).

    Verified rows first, then the rest; within both by sha256 of the id, so that a larger budget only adds rows.
    """
    ordered = sorted(rows, key=lambda row: (row.id not in verified, hash_order(row.id)))
    chosen, used = [], 0.0
    for row in ordered:
        used += epochs * len(row.input_ids)
        if max_train_tokens and used > max_train_tokens:
            break
        chosen.append(row)
    return chosen, len(ordered) - len(chosen)


def preflight(
    dataset: FineTuningDataset, task: Task, config: LoraTrainingConfig, show: int = 3
) -> Preflight:
    """Encode the train and validation parts and check what would otherwise fail silently."""
    tokenizer = tokenizer_of(config.base_model)
    by_id = {e.id: e for e in (*dataset.part("train"), *dataset.part("validation"))}
    made = {name: make_row(tokenizer, task, example, config) for name, example in by_id.items()}
    refused = {name: row for name, row in made.items() if isinstance(row, str)}
    rows = [row for row in made.values() if isinstance(row, TrainingRow)]
    teaching = [row for row in rows if by_id[row.id].part == "train"]
    verified = {e.id for e in by_id.values() if e.quality == "verified"}
    train, left_out = choose_rows(teaching, verified, config.epochs, config.max_train_tokens)
    if not train:
        first = next((f": {name} ({reason})" for name, reason in refused.items()), "")
        raise WorkbookError(
            f"no trainable row; raise max_length or max_train_tokens. Rows refused: {len(refused)}{first}"
        )
    validation, _ = choose_rows(
        [row for row in rows if by_id[row.id].part == "validation"], verified, 1, 0
    )
    ends = {r.labels[-1] for r in train} & set(control_tokens(tokenizer))
    chats = {r.id: render(task, by_id[r.id], config.prompt_style, answer=True) for r in train}
    whole = {name: models.render_tokens(tokenizer, chat, False) for name, chat in chats.items()}
    return Preflight(
        train=train,
        validation=validation[:MAX_EVAL_ROWS],
        refused=refused,
        shortened=[r.id for r in train if r.labels[-1] not in ends],
        left_out=left_out,
        tokens=round(config.epochs * sum(len(r.input_ids) for r in train)),
        end_token=tokenizer.decode(sorted(ends)),
        round_trip=sum(whole[r.id][: len(r.input_ids)] == r.input_ids for r in train),
        samples={row.id: _pieces(tokenizer, row) for row in train[:show]},
        fingerprints=models.template_fingerprints(config.base_model, task, config.prompt_style),
        schedule=plan_schedule(config, [len(r.input_ids) for r in train]),
    )


def _pieces(tokenizer: Any, row: TrainingRow) -> list[tuple[str, bool]]:
    """The row's text, cut where loss begins or ends."""
    tokens = zip(row.input_ids, row.labels, strict=True)
    runs = groupby(tokens, key=lambda token: token[1] != IGNORED)
    return [(tokenizer.decode([i for i, _ in run]), carries) for carries, run in runs]


def training_file(
    examples: list[TrainingExample], task: Task, config: OpenAIJobConfig, part: str = "train"
) -> bytes:
    """The JSONL of a hosted job, in chat lines as the model will be asked later, judged by every rule we know."""
    chats = [render(task, example, config.prompt_style, answer=True) for example in examples]
    lines = [store.dumps({"messages": models.plain(chat)}) + "\n" for chat in chats]
    issues = judge_provider_file(lines, lambda text: most_tokens(text.encode()))
    if part == "train" and (whole := [issue.message for issue in issues if not issue.line]):
        raise WorkbookError(f"{whole[0]}: add some, and run 02 again")
    problems = [f"{examples[issue.line - 1].id}: {issue.message}" for issue in issues if issue.line]
    problems += [
        f"{example.id}: no answer of the assistant"
        for example in examples
        if not example.answer.strip()
    ]
    if problems:
        raise WorkbookError(
            f"the provider would refuse {len(problems)} rows: {'; '.join(problems[:5])}; leave them out in 02"
        )
    return "".join(lines).encode()


def most_tokens(data: bytes) -> int:
    """An upper estimate without the provider's tokenizer: three bytes a token."""
    return -(-len(data) // 3)
