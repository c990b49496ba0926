"""The rungs of the ladder as ways to ask one model: each turns examples into chats, cheapest first."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from helpers import tasks
from helpers.records import Message, TrainingExample, WorkbookError
from helpers.tasks import Article, Task

LADDER = ("zero_shot", "prompt", "few_shot", "rag")  # by the effort they cost
PASSAGE_WORDS = 90  # longest passage of an article that goes into a prompt


def build_prompts(
    rung: str,
    task: Task,
    examples: Sequence[TrainingExample],
    train: Sequence[TrainingExample] = (),
    few_shot_k: int = 3,
    rag_k: int = 1,
    style: str = "short",
) -> list[list[Message]]:
    """The chats of one rung, in the order of `examples`.

    zero_shot: short instructions · prompt: full instructions · few_shot: full instructions and k solved examples of
    `train` · rag: full instructions and the best k passages · fine_tuned: the instructions the model was trained with
    (`style`).
    """
    if rung in ("zero_shot", "base"):
        return [tasks.render(task, example, "short") for example in examples]
    if rung == "prompt":
        return [tasks.render(task, example, "full") for example in examples]
    if rung == "fine_tuned":
        return [tasks.render(task, example, "full" if style == "full" else "short") for example in examples]
    if rung == "few_shot":
        return _few_shot(task, examples, demonstrations(task, train, few_shot_k))
    if rung == "rag":
        return _rag(task, examples, rag_k)
    raise WorkbookError(f"unknown rung {rung!r}; known are {', '.join(LADDER)}")


def available(rungs: Sequence[str], task: Task, train: Sequence[TrainingExample]) -> dict[str, str]:
    """rung -> why it cannot be asked here ("" when it can); an unknown name is an error."""
    if unknown := [name for name in rungs if name not in LADDER]:
        raise WorkbookError(f"unknown rung {unknown[0]!r}; known are {', '.join(LADDER)}")
    missing = dict.fromkeys(rungs, "")
    if "rag" in missing and not tasks.knowledge(task):
        missing["rag"] = f"{task.folder.name}/knowledge holds no articles"
    if "few_shot" in missing and not any(_usable(e) for e in train):
        missing["few_shot"] = "the train part holds no verified example"
    return missing


def _usable(example: TrainingExample) -> bool:
    return example.quality == "verified" and example.part == "train" and bool(example.answer)


def demonstrations(task: Task, train: Sequence[TrainingExample], k: int) -> list[TrainingExample]:
    """k fixed examples of the verified train part that together show as many different answers as they can.

    Greedy and deterministic: the shorter half (a prompt is paid for by the token), in the order of sha256(id), each
    time the one with the most field values not shown yet.
    """
    usable = sorted((e for e in train if _usable(e)), key=lambda e: (len(e.user_text) + len(e.answer), e.id))
    pool = sorted(usable[: max(k, (len(usable) + 1) // 2)], key=lambda e: hashlib.sha256(e.id.encode()).hexdigest())
    shown: set[str] = set()
    chosen: list[TrainingExample] = []
    while pool and len(chosen) < k:
        best = max(pool, key=lambda e: len(_labels(task, e) - shown))  # max keeps the first of equals
        pool.remove(best)
        chosen.append(best)
        shown |= _labels(task, best)
    return chosen


def _labels(task: Task, example: TrainingExample) -> set[str]:
    try:
        value = json.loads(example.answer)
    except ValueError:
        return set()
    names = task.scored_fields if isinstance(value, dict) else []
    return {f"{name}={json.dumps(value.get(name))}" for name in names}


def _few_shot(task: Task, examples: Sequence[TrainingExample], shown: Sequence[TrainingExample]) -> list[list[Message]]:
    """System prompt, the solved examples as earlier turns, the question: the shape a chat model was trained on."""
    turns = [m for e in shown for m in tasks.render(task, e, "full", answer=True) if m.role != "system"]
    chats = [tasks.render(task, example, "full") for example in examples]
    return [[chat[0], *turns, *chat[1:]] for chat in chats]


def _rag(task: Task, examples: Sequence[TrainingExample], k: int) -> list[list[Message]]:
    """The best passages stand in the system turn, after the instructions."""
    found = retrieve(tasks.knowledge(task), [e.user_text for e in examples], k)
    chats = []
    for example, articles in zip(examples, found, strict=True):
        system, *turns = tasks.render(task, example, "full")
        context = "\n\n".join(_passage(a) for a in articles)
        text = f"{system.content}\n\nUse this:\n{context}" if context else system.content
        chats.append([system.model_copy(update={"content": text}), *turns])
    return chats


def _passage(article: Article) -> str:
    words = article.text.split()
    return " ".join(words[:PASSAGE_WORDS]) + (" …" if len(words) > PASSAGE_WORDS else "")


def retrieve(articles: Sequence[Article], questions: Sequence[str], k: int) -> list[list[Article]]:
    """The k best articles per question by BM25 (bm25s); a question that shares no word with any gets none."""
    if not articles or k < 1:
        return [[] for _ in questions]
    index, tokens = _index(articles), _tokens(questions)
    found = []
    for words in tokens:
        known = [w for w in words if w in index.vocab_dict]
        scores = index.get_scores(known) if known else [0.0] * len(articles)
        best = sorted(range(len(articles)), key=lambda i: (-float(scores[i]), i))[:k]
        found.append([articles[i] for i in best if scores[i] > 0])
    return found


def _tokens(texts: Sequence[str]) -> list[list[str]]:
    import bm25s

    return bm25s.tokenize(list(texts), stopwords="en", return_ids=False, show_progress=False)


def _index(articles: Sequence[Article]) -> Any:
    import bm25s

    index = bm25s.BM25()
    index.index(_tokens([f"{a.title}\n{a.text}" for a in articles]), show_progress=False)
    return index
