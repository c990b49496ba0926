"""Which solved examples and which articles go into a prompt: fixed, by words (BM25), by meaning."""

from __future__ import annotations

from collections.abc import Sequence

from helpers import models, tasks
from helpers.evaluate.equality import spaced_out
from helpers.evaluate.scorers import strict_json
from helpers.records import Asking, TrainingExample
from helpers.tasks import Article, Task

PASSAGE_WORDS = 90  # longest passage of an article that goes into a prompt


def passage(article: Article) -> str:
    """The first words of an article, as far as they go into a prompt."""
    words = article.text.split()
    text = " ".join(words[:PASSAGE_WORDS])
    return text if len(words) <= PASSAGE_WORDS else f"{text} …"


def shots(
    asking: Asking,
    k: int,
    task: Task,
    examples: Sequence[TrainingExample],
    train: Sequence[TrainingExample],
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


def _usable(train: Sequence[TrainingExample]) -> list[TrainingExample]:
    usable = [e for e in train if e.quality == "verified" and e.part == "train" and e.answer]
    return [example for example in usable if not example.calls]  # endpoints want their results


def demonstrations(task: Task, train: Sequence[TrainingExample], k: int) -> list[TrainingExample]:
    """k fixed examples of the verified train part that together show many different answers.

    Greedy and deterministic: the shorter half (a prompt is paid for by the token), in the order of
    sha256(id), each time the one with the most field values not shown yet.
    """
    usable = _usable(train)
    usable.sort(key=lambda example: (len(example.user_text) + len(example.answer), example.id))
    shorter = usable[: max(k, (len(usable) + 1) // 2)]
    pool = sorted(shorter, key=lambda example: tasks.hash_order(example.id))
    shown: set[str] = set()
    chosen: list[TrainingExample] = []
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
    articles: Sequence[Article], questions: Sequence[str], k: int, dense: float = 0.0
) -> list[list[Article]]:
    """The k best articles per question by BM25; one that shares no word with any gets none.

    `dense` is the weight of the meaning, between 0 (words alone) and 1: cosine of packaged
    embeddings (wordllama).
    """
    if not articles or k < 1:
        return [[] for _ in questions]
    texts = [f"{article.title}\n{article.text}" for article in articles]
    scores = _word_scores(questions, texts)
    if dense:
        scores = _blended(scores, questions, texts, dense)
    results = []
    for row in scores:
        best = sorted(range(len(articles)), key=lambda i: (-row[i], i))[:k]
        results.append([articles[i] for i in best if row[i] > 0])
    return results


def _word_scores(questions: Sequence[str], texts: Sequence[str]) -> list[list[float]]:
    """BM25 of every text, per question."""
    import bm25s

    def words(of: Sequence[str]) -> list[list[str]]:
        texts = [spaced_out(text) for text in of]
        return bm25s.tokenize(texts, stopwords="en", return_ids=False, show_progress=False)

    index = bm25s.BM25()
    index.index(words(texts), show_progress=False)
    rows = []
    for question in words(questions):
        known = [word for word in question if word in index.vocab_dict]
        if known:
            rows.append([float(score) for score in index.get_scores(known)])
        else:
            rows.append([0.0] * len(texts))
    return rows


def _blended(
    scores: list[list[float]], questions: Sequence[str], texts: Sequence[str], dense: float
) -> list[list[float]]:
    """Words and meaning together; BM25 is set against the question's best text."""
    cosines = (models.embed(questions) @ models.embed(texts).T).tolist()
    rows = []
    for row, meanings in zip(scores, cosines, strict=True):
        top = max(row) or 1.0
        blended = []
        for score, cosine in zip(row, meanings, strict=True):
            blended.append((1 - dense) * score / top + dense * max(0.0, cosine))
        rows.append(blended)
    return rows
