"""From examples to token rows with a loss mask, and the report of what the model will see before any training.

A row is the prompt exactly as it is served, then the answer and its end-of-turn token. Only the latter two carry
loss: the prompt is given at serving time, and a model that never learns to stop runs on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from statistics import median
from typing import Any

from helpers import models, store
from helpers.models.tokens import tokenizer_of
from helpers.records import FineTuningDataset, Message, Record, TrainingExample, WorkbookError
from helpers.tasks import Task, render
from helpers.train.config import LoraTrainingConfig, Schedule, plan_schedule

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


class RefusedRow(Record):
    """A row that cannot teach anything, and why."""

    id: str
    reason: str


class SeenRow(Record):
    """One rendered row as alternating pieces of text: [text, carries loss]."""

    id: str
    pieces: list[tuple[str, bool]]


class Preflight(Record):
    """What the model will see: the rows themselves, and what was checked about them."""

    train: list[TrainingRow]
    validation: list[TrainingRow]
    refused: list[RefusedRow]
    shortened: list[str]  # ids whose answer was cut at max_length, so that its end is not learnt
    left_out: int  # train rows beyond max_train_tokens
    tokens: int  # of the chosen train rows, all epochs together
    trained_tokens: dict[str, float]  # per row: min, median, max, and the total of one epoch
    end_token: str
    end_trained: bool  # every row that was not shortened ends in the trained end-of-turn token
    round_trip: int  # rows whose tokens are those of the template applied to the whole conversation
    common_prefix: int
    samples: list[SeenRow]
    fingerprints: dict[str, str]
    schedule: Schedule
    notes: list[str]


def _text(tokenizer: Any, chat: Sequence[Message], generation_prompt: bool) -> str:
    turns = [turn | {"content": turn["content"] or ""} for turn in models.plain(chat)]
    return tokenizer.apply_chat_template(turns, add_generation_prompt=generation_prompt, tokenize=False)


def control_tokens(tokenizer: Any) -> dict[int, str]:
    """id -> text of the tokens that steer a chat (<|im_end|> and the like)."""
    added = {i: t.content for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    return added | dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))


def encode(tokenizer: Any, prompt: list[Message], answer: str) -> tuple[list[int], list[int]]:
    """(prompt ids as served, answer ids up to and including the end-of-turn token).

    Both parts are tokenized apart, since serving tokenizes the prompt alone. What follows the answer comes from the
    template, so that models whose turns do not end in `eos_token` learn their own end; a template that does not
    continue its own prompt (some hide a reasoning part) gets answer + eos_token.
    """
    head, whole = (
        _text(tokenizer, prompt, True),
        _text(tokenizer, [*prompt, Message(role="assistant", content=answer)], False),
    )
    tail = whole[len(head) :] if whole.startswith(head) else answer + tokenizer.eos_token
    ids = tokenizer(tail, add_special_tokens=False)["input_ids"]
    controls = control_tokens(tokenizer)
    end = next((n for n, i in enumerate(ids) if i in controls), None)
    ids = [*ids, tokenizer.eos_token_id] if end is None else ids[: end + 1]
    return models.render_tokens(tokenizer, prompt), ids


def make_row(
    tokenizer: Any, task: Task, example: TrainingExample, config: LoraTrainingConfig
) -> TrainingRow | RefusedRow:
    """The token row of one example, or why it has none."""
    if not example.answer.strip():
        return RefusedRow(id=example.id, reason="no answer to learn")
    prompt = render(task, example, config.prompt_style)
    if found := _control_in(tokenizer, [*(m.content or "" for m in prompt), example.answer]):
        return RefusedRow(id=example.id, reason=f"its text holds the control token {found}")
    given, learnt = encode(tokenizer, prompt, example.answer)
    ids = (given + learnt)[: config.max_length]
    if len(given) >= config.max_length:
        return RefusedRow(
            id=example.id, reason=f"no trainable token left: its prompt has {len(given)} tokens of {len(ids)}"
        )
    return TrainingRow(id=example.id, input_ids=ids, labels=([IGNORED] * len(given) + learnt)[: config.max_length])


def _control_in(tokenizer: Any, texts: Iterable[str]) -> str:
    controls = [c for c in control_tokens(tokenizer).values() if c]
    return next((c for text in texts for c in controls if c in text), "")


def choose_rows(
    rows: list[TrainingRow], verified: set[str], epochs: float, max_train_tokens: int
) -> tuple[list[TrainingRow], int]:
    """(the rows that fit into the token budget of all epochs, how many were left out).

    Verified rows first, then the rest; within both by sha256 of the id, so that a larger budget only adds rows.
    """
    ordered = sorted(rows, key=lambda row: (row.id not in verified, hashlib.sha256(row.id.encode()).hexdigest()))
    chosen, used = [], 0.0
    for row in ordered:
        used += epochs * len(row.input_ids)
        if max_train_tokens and used > max_train_tokens:
            break
        chosen.append(row)
    return chosen, len(ordered) - len(chosen)


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """How many leading tokens all rows share."""
    first, last = min(rows), max(rows)
    return next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


def preflight(dataset: FineTuningDataset, task: Task, config: LoraTrainingConfig, show: int = 3) -> Preflight:
    """Encode the train and validation parts and check what would otherwise fail silently.

    Raises WorkbookError when nothing trainable is left; refused rows are named in the report.
    """
    tokenizer = tokenizer_of(config.base_model)
    made = {
        part: [make_row(tokenizer, task, e, config) for e in dataset.part(part)] for part in ("train", "validation")
    }
    rows = {part: [r for r in found if isinstance(r, TrainingRow)] for part, found in made.items()}
    refused = [r for found in made.values() for r in found if isinstance(r, RefusedRow)]
    verified = {e.id for e in dataset.examples if e.quality == "verified"}
    train, left_out = choose_rows(rows["train"], verified, config.epochs, config.max_train_tokens)
    if not train:
        why = f"; the first refused row: {refused[0].id} ({refused[0].reason})" if refused else ""
        raise WorkbookError(
            f"no trainable row in {dataset.metadata.version}: raise max_length or max_train_tokens{why}"
        )
    validation, _ = choose_rows(rows["validation"], verified, 1, 0)
    ends = set(control_tokens(tokenizer))
    whole = [r for r in train if r.labels[-1] in ends]
    by_id = {e.id: e for e in dataset.examples}
    same = sum(_as_template(tokenizer, task, by_id[r.id], config)[: len(r.input_ids)] == r.input_ids for r in train)
    trained = [r.trained for r in train]
    schedule = plan_schedule(config, [len(r.input_ids) for r in train], on_cpu=not _has_gpu())
    return Preflight(
        train=train,
        validation=validation[:MAX_EVAL_ROWS],
        refused=refused,
        shortened=[r.id for r in train if r.labels[-1] not in ends],
        left_out=left_out,
        tokens=round(config.epochs * sum(len(r.input_ids) for r in train)),
        trained_tokens={"min": min(trained), "median": median(trained), "max": max(trained), "total": sum(trained)},
        end_token=tokenizer.decode([whole[0].labels[-1]]) if whole else "",
        end_trained=bool(whole),
        round_trip=same,
        common_prefix=common_prefix([r.input_ids for r in train]),
        samples=[_pieces(tokenizer, row) for row in train[:show]],
        fingerprints=models.template_fingerprints(config.base_model, task, config.prompt_style),
        schedule=schedule,
        notes=_notes(schedule, refused, left_out, same, len(train), config),
    )


def _notes(
    schedule: Schedule, refused: list[RefusedRow], left_out: int, same: int, n: int, config: LoraTrainingConfig
) -> list[str]:
    notes = list(schedule.notes)
    if refused:
        ids = ", ".join(r.id for r in refused[:10])
        notes.append(f"{len(refused)} rows refused: {ids}{' …' if len(refused) > 10 else ''}")
    if left_out:
        notes.append(f"{left_out} train rows left out: max_train_tokens = {config.max_train_tokens} is used up")
    if same < n:
        notes.append(
            f"{n - same} rows differ from the template's tokens of the whole conversation; the served prompt is used"
        )
    return notes


def _as_template(tokenizer: Any, task: Task, example: TrainingExample, config: LoraTrainingConfig) -> list[int]:
    return models.render_tokens(tokenizer, render(task, example, config.prompt_style, answer=True), False)


def _pieces(tokenizer: Any, row: TrainingRow) -> SeenRow:
    pieces: list[tuple[list[int], bool]] = []
    for token, label in zip(row.input_ids, row.labels, strict=True):
        carries = label != IGNORED
        if not pieces or pieces[-1][1] != carries:
            pieces.append(([], carries))
        pieces[-1][0].append(token)
    return SeenRow(id=row.id, pieces=[(tokenizer.decode(ids), carries) for ids, carries in pieces])


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available() or torch.backends.mps.is_available()


def rows_fingerprint(report: Preflight) -> str:
    """sha256 over every token and label that training will see."""
    return store.fingerprint([[r.id, r.input_ids, r.labels] for r in (*report.train, *report.validation)])
