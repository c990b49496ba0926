"""What the tutorial costs: tokens and rows, measured from the task and the tokenizer before anything is run."""

from __future__ import annotations

from helpers.records import Record

PROMPT, LONG_PROMPT, ANSWER = 160, 350, 40  # tokens; few-shot and RAG carry more than the question
VALIDATION_ROWS, TEST_ROWS, TRAIN_TOKENS = 60, 120, 60_000


class BudgetLine(Record):
    """One line of the budget: the largest measured value against the most it may be."""

    what: str
    unit: str
    typical: float
    largest: int
    limit: int

    @property
    def kept(self) -> bool:
        """Whether the largest value is within the limit."""
        return self.largest <= self.limit


def tutorial_budget(
    task: str,
    base_model: str,
    seed: int,
    split_ratios: dict[str, float],
    few_shot_k: int,
    rag_k: int,
    max_validation_rows: int,
    max_train_tokens: int,
) -> list[BudgetLine]:
    """Rendered prompt tokens per rung over all verified rows, answers, rows per part, training tokens."""
    from helpers import tasks
    from helpers.evaluate import rungs
    from helpers.models import tokens

    loaded = tasks.load_task(task)
    rows = tasks.with_parts(tasks.load_examples(loaded, source="human").examples, seed, split_ratios)
    parts = {part: [row for row in rows if row.part == part] for part in ("train", "validation", "test")}
    lines = []
    for rung in rungs.LADDER:
        if rungs.available([rung], loaded, parts["train"])[rung]:
            continue
        asked = parts["validation"] + parts["test"]
        chats = rungs.build_prompts(rung, loaded, asked, parts["train"], few_shot_k, rag_k)
        limit = PROMPT if rung in ("zero_shot", "prompt") else LONG_PROMPT
        lines.append(_line(f"prompt, {rung}", tokens.count_chats(base_model, chats), limit))
    lines.append(_line("answer", tokens.count_text(base_model, [row.answer for row in rows]), ANSWER))
    asked_rows = min(max_validation_rows or len(parts["validation"]), len(parts["validation"]))
    for what, number, limit in (("validation", asked_rows, VALIDATION_ROWS), ("test", len(parts["test"]), TEST_ROWS)):
        lines.append(BudgetLine(what=f"{what} rows a rung", unit="rows", typical=number, largest=number, limit=limit))
    most = max_train_tokens or 10**9
    lines.append(BudgetLine(what="training, all epochs", unit="tokens", typical=most, largest=most, limit=TRAIN_TOKENS))
    return lines


def _line(what: str, counts: list[int], limit: int) -> BudgetLine:
    middle = sorted(counts)[len(counts) // 2]
    return BudgetLine(what=what, unit="tokens", typical=middle, largest=max(counts), limit=limit)
