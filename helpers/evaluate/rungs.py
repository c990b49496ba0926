"""The rungs of the ladder as ways to ask one model: each turns examples into chats.

Solved examples and articles are chosen by hand (fixed), by words (BM25) or by meaning.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from helpers import models, tasks
from helpers.evaluate.classical import CLASSICAL, learnable, why_not
from helpers.evaluate.equality import LETTER, UNSPACED, plain_text
from helpers.evaluate.scorers import Examples, strict_json
from helpers.records import Asking, Message, TrainingExample, WorkbookError
from helpers.tasks import Article, Task

LADDER = ("zero_shot", "prompt", "few_shot", "rag")  # by the effort they cost
CHEAPEST_FIRST = ("incumbent", CLASSICAL, *LADDER)  # the first runs today, as task.yaml names it
# the longest passage of an article that goes into a prompt, and what counts as a word of it
PASSAGE = re.compile(rf"(?:\s*(?:[{UNSPACED}]{{1,2}}|[^\s{UNSPACED}]+)){{0,90}}")
INSIDE = re.compile(f"(?<=[{UNSPACED}])[{UNSPACED}](?=[{UNSPACED}])")
WORD = rf"{LETTER}{LETTER}+|\d|[{UNSPACED}]+"  # of an index: zone 3 is not zone 5
Chats = list[list[Message]]
Texts = Sequence[str]
Articles = Sequence[Article]


def build_prompts(asking: Asking, task: Task, examples: Examples, train: Examples = ()) -> Chats:
    """The chats of one rung, in the order of `examples`: the instructions and the question.

    What a rung puts between them, from `train` or the task's articles, its builder adds.
    """
    if asking.wording:
        task = task.model_copy(update={"instructions_full": asking.wording})
    if asking.tools:
        task = task.model_copy(update={"tools": asking.tools})
    chats = [tasks.render(task, example, asking.style) for example in examples]
    if asking.rung_kind not in BUILDERS:
        return chats
    return BUILDERS[asking.rung_kind](chats, asking, task, examples, train)


def with_shots(
    chats: Chats, asking: Asking, task: Task, examples: Examples, train: Examples
) -> Chats:
    """few_shot: solved examples of train, the same for all rows or the most similar ones."""
    return _with_solved(chats, shots(asking, asking.few_shot_k, task, examples, train), task)


def with_passages(
    chats: Chats, asking: Asking, task: Task, examples: Examples, train: Examples
) -> Chats:
    """rag: the best passages after the instructions; with solved examples, before each question.

    What a small model sees done, it does.
    """
    library = tasks.knowledge(task)
    questions = [example.user_text for example in examples]
    retrieved = retrieve(library, questions, asking.rag_k, asking.rag_dense)
    pairs = zip(chats, retrieved, strict=True)
    if not asking.rag_shots:
        return [_in_system_turn(chat, articles) for chat, articles in pairs]
    chats = [_before_question(chat, articles) for chat, articles in pairs]
    shown = shots(asking, asking.rag_shots, task, examples, train)
    return _with_solved(chats, shown, task, library, asking.rag_k)


BUILDERS: dict[str, Callable[[Chats, Asking, Task, Examples, Examples], Chats]] = {
    "few_shot": with_shots,
    "rag": with_passages,
}


def _with_solved(
    chats: Chats, shown: Sequence[Examples], task: Task, library: Articles = (), k: int = 0
) -> Chats:
    """Solved examples, with k passages each, as earlier turns: the shape that a model knows."""
    solved = {example.id: example for row in shown for example in row}
    found = retrieve(library, [example.user_text for example in solved.values()], k)
    turns = {}
    for (row_id, example), articles in zip(solved.items(), found, strict=True):
        own = tasks.render(task, example, answer=True)[1:]
        turns[row_id] = _before_question(own, articles)
    longer = []
    for chat, examples in zip(chats, shown, strict=True):
        before = [turn for example in examples for turn in turns[example.id]]
        longer.append([chat[0], *before, *chat[1:]])
    return longer


def _in_system_turn(chat: list[Message], articles: Articles) -> list[Message]:
    """The chat with the passages after its instructions."""
    if not articles:
        return chat
    passages = "\n\n".join(map(passage, articles))
    text = f"{chat[0].content}\n\nUse this:\n{passages}"
    return [chat[0].model_copy(update={"content": text}), *chat[1:]]


def _before_question(turns: Sequence[Message], articles: Articles) -> list[Message]:
    """The turns with the passages at the beginning of the last user turn."""
    if not articles:
        return list(turns)
    last = max(i for i, turn in enumerate(turns) if turn.role == "user")
    text = "\n\n".join([*map(passage, articles), turns[last].content or ""])
    changed = list(turns)
    changed[last] = turns[last].model_copy(update={"content": text})
    return changed


def effort(rung: str) -> tuple[bool, int]:
    """The sort key of "cheapest first": the given model before others, then by the ladder."""
    technique, at, _ = rung.partition("@")
    return bool(at), CHEAPEST_FIRST.index(technique)


def available(rungs: Texts, task: Task, train: Examples) -> dict[str, str]:
    """rung -> why it cannot be asked here ("" when it can); an unknown name is an error."""
    missing = {}
    if not tasks.knowledge(task):
        missing["rag"] = f"{task.folder.name}/knowledge holds no articles"
    if not demonstrations(task, train, 1):
        missing["few_shot"] = "the train part holds no verified example"
    if CLASSICAL in rungs:
        missing[CLASSICAL] = why_not(task, train)
    if not task.incumbent:
        missing["incumbent"] = "task.yaml names no incumbent"
    reasons = {}
    for rung in rungs:
        kind = rung.partition("@")[0]
        if kind not in CHEAPEST_FIRST:
            raise WorkbookError(f"unknown rung {rung!r}; known are {', '.join(CHEAPEST_FIRST)}")
        reasons[rung] = missing.get(kind, "")
    return reasons


# --- solved examples and articles -----------------------------------------------------------------


def passage(article: Article) -> str:
    """The first words of an article, as far as they go into a prompt."""
    text = " ".join(article.text.split())
    beginning = PASSAGE.match(text)[0]
    return text if beginning == text else f"{beginning} …"


def shots(
    asking: Asking, k: int, task: Task, examples: Examples, train: Examples
) -> list[list[TrainingExample]]:
    """k solved examples a row: the same for all, or the nearest of train with the nearest last."""
    if asking.few_shot_pick == "fixed":
        return [demonstrations(task, train, k)] * len(examples)
    usable = {example.id: example for example in _usable(train)}
    texts = [Article(id=e.id, title="", text=e.user_text) for e in usable.values()]
    rows = []
    for articles in retrieve(texts, [e.user_text for e in examples], k):
        rows.append([usable[article.id] for article in reversed(articles)])
    return rows


def _usable(train: Examples) -> list[TrainingExample]:
    return [e for e in learnable(train) if not e.calls]  # endpoints want their results


def demonstrations(task: Task, train: Examples, k: int) -> list[TrainingExample]:
    """k fixed examples of the verified train part that together show many different answers.

    Greedy and deterministic: the shorter half (a prompt is paid for by the token), in the order of
    sha256(id), each time the one with the most field values not shown yet.
    """
    usable = sorted(_usable(train), key=lambda e: (len(e.user_text) + len(e.answer), e.id))
    shorter = usable[: max(k, (len(usable) + 1) // 2)]
    pool = sorted(shorter, key=lambda example: tasks.hash_order(example.id))
    shown = set()
    chosen = []
    while pool and len(chosen) < k:
        # max keeps the first of equals
        best = max(pool, key=lambda example: len(_labels(task, example) - shown))
        pool.remove(best)
        chosen.append(best)
        shown |= _labels(task, best)
    return chosen


def _labels(task: Task, example: TrainingExample) -> set[str]:
    value = strict_json(example.answer) or {}
    return {f"{name}={value.get(name)}" for name in task.scored_fields}


def retrieve(
    articles: Articles, questions: Texts, k: int, dense: float = 0.0
) -> list[list[Article]]:
    """The k best articles per question by BM25; one that shares no word with any gets none.

    `dense` is the weight of the meaning, between 0 (words alone) and 1: cosine of packaged
    embeddings (wordllama).
    """
    if not articles or k < 1:
        return [[] for _ in questions]
    texts = [f"{article.title}\n{article.text}" for article in articles]
    scores = _word_scores(questions, texts)
    if dense:  # BM25 is set against the question's best text
        top = scores.max(axis=1, keepdims=True)
        top[top == 0] = 1.0
        meanings = (models.embed(questions) @ models.embed(texts).T).clip(min=0)
        scores = (1 - dense) * scores / top + dense * meanings
    results = []
    for row in scores:
        best = (-row).argsort(kind="stable")[:k]
        results.append([articles[i] for i in best if row[i] > 0])
    return results


def _word_scores(questions: Texts, texts: Texts) -> Any:
    """BM25 of every text, per question: an array (questions, texts)."""
    import bm25s
    import numpy

    def words(of: Texts) -> list[list[str]]:
        # runs of scripts without spaces as pairs of characters: abcd is ab bc cd
        texts = [INSIDE.sub(r"\g<0> \g<0>", plain_text(text)) for text in of]
        return bm25s.tokenize(
            texts, token_pattern=WORD, stopwords="en", return_ids=False, show_progress=False
        )

    scores = numpy.zeros((len(questions), len(texts)))
    known_words = words(texts)
    if not any(known_words):  # bm25s cannot index nothing
        return scores
    index = bm25s.BM25()
    index.index(known_words, show_progress=False)
    for place, question in enumerate(words(questions)):
        known = [word for word in question if word in index.vocab_dict]
        if known:
            scores[place] = index.get_scores(known)
    return scores
