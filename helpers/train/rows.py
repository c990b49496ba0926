"""From examples to token rows with a loss mask, and the report of what the model will see.

A row is the prompt exactly as it is served, then the answer and its end-of-turn token. Only the
latter two carry loss: the prompt is given at serving time, and a model that never learns to stop
runs on. Where every answer of a chat is learnt (`train_on: all`), each is such a row; those that
continue each other token by token are one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from itertools import groupby
from typing import Any

from helpers import models, show, store
from helpers.curate import judge_provider_file
from helpers.models import control_tokens
from helpers.records import (
    FineTuningDataset,
    Message,
    Part,
    Record,
    TrainingExample,
    WorkbookError,
    read_calls,
    same_calls,
)
from helpers.tasks import Task, hash_order, learnt_turns, normalise, render
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
    left_out: int  # train rows beyond max_train_tokens
    left_out_tokens: int  # theirs, all epochs together
    tokens: int  # of the chosen train rows, all epochs together
    end_token: str  # the end of turn that is learnt
    round_trip: int  # rows whose tokens are those of the template applied to the whole chat
    samples: dict[str, list[tuple[str, bool]]]  # id -> its text as spans (text, carries loss)
    fingerprints: dict[str, str]
    schedule: dict[str, int]


def encode(
    tokenizer: Any,
    prompt: list[Message],
    answer: Message | str,
    template_args: Mapping[str, Any] | None = None,
) -> tuple[list[int], list[int]]:
    """(prompt ids as served, answer ids up to and including the end-of-turn token).

    Both are tokenized apart, as serving tokenizes the prompt alone. The end of turn is the
    template's own; a template that does not continue its own prompt (some hide a reasoning part)
    gets answer + eos_token.
    """
    if isinstance(answer, str):
        answer = Message(role="assistant", content=answer)
    prompt_ids = models.render_tokens(tokenizer, prompt, template_args=template_args)
    head = models.render_text(tokenizer, prompt, template_args=template_args)
    whole = models.render_text(tokenizer, [*prompt, answer], False, template_args)
    if whole.startswith(head):
        tail = whole[len(head) :]
    elif answer.tool_calls or answer.reasoning:
        raise WorkbookError(
            "the chat template does not continue its own prompt with calls or thoughts; use a"
            " base_model whose template does"
        )
    else:
        tail = (answer.content or "") + tokenizer.eos_token
    answer_ids = tokenizer(tail, add_special_tokens=False)["input_ids"]
    end = _end_of_turn(tokenizer, answer_ids)
    return prompt_ids, answer_ids[:end] if end else [*answer_ids, tokenizer.eos_token_id]


def _end_of_turn(tokenizer: Any, ids: list[int]) -> int:
    """How many tokens there are up to the control token that ends the turn; 0: none does.

    Of the control tokens behind the last word it is the first that models stop at.
    """
    controls = control_tokens(tokenizer)
    ends = []
    for position in range(len(ids), 0, -1):
        token = ids[position - 1]
        if token in controls:
            ends.append((controls[token] in models.END_TOKENS, -position))
        elif tokenizer.decode([token]).strip():
            break
    return -max(ends)[1] if ends else 0


def token_row(
    prompt_ids: list[int], answer_ids: list[int], most: int | None = None
) -> dict[str, list[int]]:
    """{input_ids, labels} with loss on the answer alone, cut after `most` tokens."""
    labels = [IGNORED] * len(prompt_ids) + answer_ids
    return {"input_ids": (prompt_ids + answer_ids)[:most], "labels": labels[:most]}


def make_rows(
    tokenizer: Any, task: Task, example: TrainingExample, config: LoraTrainingConfig
) -> list[TrainingRow] | str:
    """The token rows of one example, or why it has none; WorkbookError where its template fails.

    One row, unless several answers are learnt whose prompts do not continue each other.
    """
    chats = [render(task, c, config.prompt_style, answer=True) for c in learnt_turns(task, example)]
    if not chats:
        return "no answer to learn"
    turns = [f"{m.content or ''}\n{m.reasoning or ''}" for m in chats[-1]]
    text = "\n".join([*turns, example.answer])
    for control in control_tokens(tokenizer).values():
        if control and control in text:
            return f"its text holds the control token {control}"
    pieces = _pieces(tokenizer, task, example, chats, config)
    if not pieces:
        return "what would be learnt, read back, is not its answer: another base_model may do"
    rows = []
    most = models.context_of(config.base_model)
    for number, (ids, labels) in enumerate(pieces, 1):
        name = f"{example.id}#{number}" if len(pieces) > 1 else example.id
        if len(ids) > most:
            return f"{len(ids)} tokens with its instructions; {config.base_model} reads {most}"
        rows.append(TrainingRow(id=name, input_ids=ids, labels=labels))
    return rows


def _pieces(
    tokenizer: Any,
    task: Task,
    example: TrainingExample,
    chats: list[list[Message]],
    config: LoraTrainingConfig,
) -> list[tuple[list[int], list[int]]]:
    """The chats as rows, those that continue each other as one; [] where one reads back wrong."""
    template_args = models.template_args(task, config.base_model)
    pieces: list[tuple[list[int], list[int]]] = []
    for *prompt, answer in chats:
        try:
            prompt_ids, answer_ids = encode(tokenizer, prompt, answer, template_args)
        except WorkbookError as error:
            raise WorkbookError(f"{example.where}: {error}") from None
        if not _reads_back(tokenizer, prompt, answer, prompt_ids, answer_ids):
            return []
        given = len(prompt_ids)
        if task.reasoning == "keep" and answer.reasoning:
            given += _length_of_thoughts(tokenizer, answer, answer_ids)
        ids = prompt_ids + answer_ids
        labels = [IGNORED] * given + ids[given:]
        if pieces and ids[: len(pieces[-1][0])] == pieces[-1][0]:
            _, earlier = pieces.pop()
            labels = earlier + labels[len(earlier) :]
        pieces.append((ids, labels))
    return pieces


def _reads_back(
    tokenizer: Any,
    prompt: list[Message],
    answer: Message,
    prompt_ids: list[int],
    answer_ids: list[int],
) -> bool:
    """Whether an answer that is learnt to the letter would be scored as the gold answer."""
    text, _ = models.read_answer(tokenizer, prompt_ids, answer_ids, models.tools_of(prompt))
    says, calls = read_calls(text) if answer.tool_calls else (text, [])
    is_said = normalise(says) == normalise(answer.content or "")
    return is_said and same_calls(answer.tool_calls or [], calls)


def _length_of_thoughts(tokenizer: Any, answer: Message, answer_ids: list[int]) -> int:
    """How many tokens of an answer its thoughts take."""
    thoughts = (answer.reasoning or "").strip()
    lengths = range(len(answer_ids))
    return bisect_left(lengths, True, key=lambda n: thoughts in tokenizer.decode(answer_ids[:n]))


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
    dataset: FineTuningDataset, task: Task, config: LoraTrainingConfig, samples: int = 3
) -> Preflight:
    """Encode the train and validation parts and check what would otherwise fail silently."""
    tokenizer = models.tokenizer_of(config.base_model)
    examples: dict[str, TrainingExample] = {}
    rows: dict[Part, list[TrainingRow]] = {"train": [], "validation": []}
    refused = {}
    for part, part_rows in rows.items():
        part_examples = dataset.part(part)
        for example in show.told(part_examples, len(part_examples), f"encoding the {part} part"):
            own_rows = make_rows(tokenizer, task, example, config)
            if isinstance(own_rows, str):
                refused[example.id] = own_rows
                continue
            part_rows += own_rows
            examples |= {row.id: example for row in own_rows}
    verified = {name for name, example in examples.items() if example.quality == "verified"}
    train, left_out = choose_rows(rows["train"], verified, config.epochs, config.max_train_tokens)
    validation, _ = choose_rows(rows["validation"], verified, 1, 0)
    if not train:
        raise _no_row(refused, left_out)
    ends = {row.labels[-1] for row in train} & set(control_tokens(tokenizer))
    whole = 0
    for row in show.told(train, len(train), "encoding them again as the template would"):
        whole += _is_whole(tokenizer, row, examples[row.id], task, config)
    lengths = [len(row.input_ids) for row in train]
    every_token = sum(len(row.input_ids) for row in rows["train"])
    return Preflight(
        train=train,
        validation=validation[:MAX_EVAL_ROWS],
        refused=refused,
        left_out=left_out,
        left_out_tokens=round(config.epochs * (every_token - sum(lengths))),
        tokens=round(config.epochs * sum(lengths)),
        end_token=tokenizer.decode(sorted(ends)),
        round_trip=whole,
        samples={row.id: _spans(tokenizer, row) for row in train[:samples]},
        fingerprints=models.template_fingerprints(config.base_model, task, config.prompt_style),
        schedule=plan_schedule(config, lengths),
    )


def _no_row(refused: dict[str, str], left_out: int) -> WorkbookError:
    first = next((f": {name} ({reason})" for name, reason in refused.items()), "")
    remedy = "raise max_train_tokens. " if left_out else ""
    return WorkbookError(f"no trainable row; {remedy}Rows refused: {len(refused)}{first}")


def _is_whole(
    tokenizer: Any,
    row: TrainingRow,
    example: TrainingExample,
    task: Task,
    config: LoraTrainingConfig,
) -> bool:
    """Whether a row's tokens are those of the template applied to the whole chat."""
    chat = render(task, example, config.prompt_style, answer=True)
    template_args = models.template_args(task, config.base_model)
    whole = models.render_tokens(tokenizer, chat, False, template_args)
    return whole[: len(row.input_ids)] == row.input_ids


def _spans(tokenizer: Any, row: TrainingRow) -> list[tuple[str, bool]]:
    """The row's text, cut where loss begins or ends."""
    tokens = zip(row.input_ids, row.labels, strict=True)
    runs = groupby(tokens, key=lambda token: token[1] != IGNORED)
    return [(tokenizer.decode([token for token, _ in run]), carries) for carries, run in runs]


def training_file(
    examples: list[TrainingExample], task: Task, config: OpenAIJobConfig, part: Part = "train"
) -> bytes:
    """The JSONL of a hosted job, as the model will be asked later, judged by every rule we know.

    Providers learn every answer of a chat: one that is not to be learnt gets weight 0.
    """
    lines = []
    problems = []
    for example in examples:
        chat = render(task, example, config.prompt_style, answer=True)
        line: dict[str, Any] = {"messages": _weighed(task, models.as_dicts(chat))}
        if models.tools_of(chat):
            line["tools"] = models.tools_of(chat)
        lines.append(store.dumps(line) + "\n")
        if not example.answer.strip():
            problems.append(f"{example.id}: no answer of the assistant")
        if chat[-1].reasoning:
            raise WorkbookError(
                f"task.yaml: reasoning: {task.reasoning}: no file has room for thoughts"
                f" ({example.where}); set `reasoning: strip`, or train on this machine"
            )
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


def _weighed(task: Task, turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The turns, where the last answer alone is learnt: with weight 0 on the others."""
    if task.train_on == "last":
        for turn in turns[:-1]:
            if turn["role"] == "assistant":
                turn["weight"] = 0
    return turns


def most_tokens(data: bytes) -> int:
    """An upper estimate without the provider's tokenizer: three bytes a token."""
    return -(-len(data) // 3)
