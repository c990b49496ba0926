"""The JSONL file of a fine-tuning job, judged here by every rule we know before anything is uploaded."""

from __future__ import annotations

import json
import re

from helpers import models, store
from helpers.models.prices import token_price
from helpers.records import TrainingExample, WorkbookError
from helpers.tasks import Task, render
from helpers.train.config import OpenAIJobConfig

MIN_ROWS = 10
MAX_ROW_TOKENS = 65_536
MAX_FILE_BYTES = 512 * 2**20
CONTROL = re.compile(r"<\|[a-z0-9_]+\|>")  # control tokens inside a text make providers refuse the whole file


def training_file(examples: list[TrainingExample], task: Task, config: OpenAIJobConfig, name: str) -> bytes:
    """Chat lines exactly as the model will be asked later; WorkbookError names the first rows that break a rule."""
    problems, lines = [], []
    for example in examples:
        chat = render(task, example, config.prompt_style, answer=True)
        problems += [f"{example.id}: {what}" for what in _row_problems(example, [m.content or "" for m in chat])]
        lines.append(json.dumps({"messages": models.plain(chat)}, ensure_ascii=False) + "\n")
    if problems:
        shown = "; ".join(problems[:5])
        raise WorkbookError(
            f"{len(problems)} {name} rows would be refused by the provider: {shown}; leave them out in 02"
        )
    data = "".join(lines).encode()
    if len(data) > MAX_FILE_BYTES:
        raise WorkbookError(f"the {name} file has {len(data) / 2**20:.0f} MiB, 512 is the most; train on fewer rows")
    return data


def _row_problems(example: TrainingExample, texts: list[str]) -> list[str]:
    found = []
    if not example.answer.strip():
        found.append("no answer of the assistant")
    if not any(m.role == "user" for m in example.messages):
        found.append("no message of a user")
    if control := next((m[0] for text in texts if (m := CONTROL.search(text))), ""):
        found.append(f"holds the control token {control}")
    if most_tokens("".join(texts)) > MAX_ROW_TOKENS:
        found.append(f"longer than {MAX_ROW_TOKENS} tokens")
    return found


def check_count(train: list[TrainingExample]) -> None:
    """Providers want at least ten examples."""
    if len(train) < MIN_ROWS:
        raise WorkbookError(
            f"the train part has {len(train)} rows; a job needs at least {MIN_ROWS}: add examples and run 02"
        )


def most_tokens(text: str) -> int:
    """An upper estimate without the provider's tokenizer: three bytes a token."""
    return -(-len(text.encode()) // 3)


def expected_epochs(config: OpenAIJobConfig, rows: int) -> int:
    """The epochs that "auto" is known to mean: three, more on very few rows."""
    return config.n_epochs or (min(25, 100 // rows) if rows < 34 else 3)


def training_price(task: Task, model: str) -> float | None:
    """USD per million trained tokens by task.yaml (prices.models.<model>.train)."""
    price = (token_price(task, model) or {}).get("train")
    return None if price is None else float(price)


def check_budget(task: Task, config: OpenAIJobConfig, data: bytes, rows: int, loopback: bool) -> float:
    """USD the job may cost at most (tokens x epochs x price); WorkbookError when that exceeds max_cost_usd."""
    if loopback:
        return 0.0
    price = training_price(task, config.api_model)
    if price is None:
        raise WorkbookError(
            f"{task.folder / 'task.yaml'}: prices.models.{config.api_model}.train (USD per million tokens) is missing,"
            " so the job's cost cannot be held against max_cost_usd"
        )
    cost = most_tokens(data.decode()) * expected_epochs(config, rows) * price / 1e6
    if cost > config.max_cost_usd:
        raise WorkbookError(
            f"the job may cost up to {cost:.2f} USD, max_cost_usd is {config.max_cost_usd:.2f}: raise it or train on less"
        )
    return cost


def system_prompt_fingerprint(task: Task, style: str) -> dict[str, str]:
    """Fingerprints of a hosted model: its template and tokenizer are the provider's secret."""
    import hashlib

    text = task.instructions_short if style == "short" else task.instructions_full
    return {"template": "", "tokenizer": "", "system_prompt": hashlib.sha256(text.encode()).hexdigest()}


def file_fingerprint(*files: bytes) -> str:
    """sha256 over the uploaded bytes."""
    return store.fingerprint([f.decode() for f in files])
