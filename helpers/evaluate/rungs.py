"""The rungs of the ladder as ways to ask one model: each turns examples into chats, cheapest first."""

from __future__ import annotations

from collections.abc import Sequence

from helpers import tasks
from helpers.evaluate.scorers import strict_json
from helpers.records import Message, TrainingExample, WorkbookError
from helpers.tasks import Article, Task, hash_order

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
    short = rung == "zero_shot" or (rung == "fine_tuned" and style == "short")
    chats = [tasks.render(task, example, "short" if short else "full") for example in examples]
    if rung == "few_shot":
        # Solved examples as earlier turns, the shape a chat model was trained on.
        shown = [tasks.render(task, e, answer=True)[1:] for e in demonstrations(task, train, few_shot_k)]
        return [[chat[0], *(turn for turns in shown for turn in turns), *chat[1:]] for chat in chats]
    if rung == "rag":
        found = retrieve(tasks.knowledge(task), [e.user_text for e in examples], rag_k)
        return [_with_articles(chat, articles) for chat, articles in zip(chats, found, strict=True)]
    return chats


def available(rungs: Sequence[str], task: Task, train: Sequence[TrainingExample]) -> dict[str, str]:
    """rung -> why it cannot be asked here ("" when it can); an unknown name is an error."""
    if unknown := [name for name in rungs if name not in LADDER]:
        raise WorkbookError(f"unknown rung {unknown[0]!r}; known are {', '.join(LADDER)}")
    missing = dict.fromkeys(rungs, "")
    if "rag" in missing and not tasks.knowledge(task):
        missing["rag"] = f"{task.folder.name}/knowledge holds no articles"
    if "few_shot" in missing and not demonstrations(task, train, 1):
        missing["few_shot"] = "the train part holds no verified example"
    return missing


def demonstrations(task: Task, train: Sequence[TrainingExample], k: int) -> list[TrainingExample]:
    """k fixed examples of the verified train part that together show as many different answers as they can.

    Greedy and deterministic: the shorter half (a prompt is paid for by the token), in the order of sha256(id), each
    time the one with the most field values not shown yet.
    """
    usable = [e for e in train if e.quality == "verified" and e.part == "train" and e.answer]
    usable.sort(key=lambda e: (len(e.user_text) + len(e.answer), e.id))
    pool = sorted(usable[: max(k, (len(usable) + 1) // 2)], key=lambda e: hash_order(e.id))
    shown: set[str] = set()
    chosen: list[TrainingExample] = []
    while pool and len(chosen) < k:
        best = max(pool, key=lambda e: len(_labels(task, e) - shown))  # max keeps the first of equals
        pool.remove(best)
        chosen.append(best)
        shown |= _labels(task, best)
    return chosen


def _labels(task: Task, example: TrainingExample) -> set[str]:
    value = strict_json(example.answer) or {}
    return {f"{name}={value.get(name)}" for name in task.scored_fields}


def _with_articles(chat: list[Message], articles: Sequence[Article]) -> list[Message]:
    """The chat with the passages in its system turn, after the instructions."""
    words = [article.text.split() for article in articles]
    passages = [" ".join(w[:PASSAGE_WORDS]) + " …" * (len(w) > PASSAGE_WORDS) for w in words]
    text = f"{chat[0].content}\n\nUse this:\n" + "\n\n".join(passages)
    return [chat[0].model_copy(update={"content": text}), *chat[1:]] if passages else chat


def retrieve(articles: Sequence[Article], questions: Sequence[str], k: int) -> list[list[Article]]:
    """The k best articles per question by BM25 (bm25s); a question that shares no word with any gets none."""
    if not articles or k < 1:
        return [[] for _ in questions]
    import bm25s

    def words(texts: Sequence[str]) -> list[list[str]]:
        return bm25s.tokenize(list(texts), stopwords="en", return_ids=False, show_progress=False)

    index, found = bm25s.BM25(), []
    index.index(words([f"{a.title}\n{a.text}" for a in articles]), show_progress=False)
    for asked in words(questions):
        known = [word for word in asked if word in index.vocab_dict]
        scores = index.get_scores(known) if known else [0.0] * len(articles)
        best = sorted(range(len(articles)), key=lambda i: (-float(scores[i]), i))[:k]
        found.append([articles[i] for i in best if scores[i] > 0])
    return found
