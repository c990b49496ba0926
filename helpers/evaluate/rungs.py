"""The rungs of the ladder as ways to ask one model: each turns examples into chats, cheapest first."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from helpers import tasks
from helpers.evaluate.scorers import strict_json
from helpers.records import Message, TrainingExample, WorkbookError
from helpers.tasks import Article, Task, hash_order

LADDER = ("zero_shot", "prompt", "few_shot", "rag")  # by the effort they cost
KNOWN = (*LADDER, "incumbent")  # what runs today: a prompt, a model or both, as task.yaml names it
PASSAGE_WORDS = 90  # longest passage of an article that goes into a prompt


def build_prompts(
    rung: str,
    task: Task,
    examples: Sequence[TrainingExample],
    train: Sequence[TrainingExample] = (),
    few_shot_k: int = 3,
    rag_k: int = 1,
    style: str = "short",
    *,
    few_shot_pick: str = "fixed",
    rag_shots: int = 0,
    rag_dense: float = 0.0,
    instructions: str = "",
) -> list[list[Message]]:
    """The chats of one rung, in the order of `examples`.

    zero_shot: short instructions · prompt: full instructions · few_shot: full instructions and k solved examples of
    `train`, the same for all rows (`few_shot_pick` fixed) or the most similar ones (nearest) · rag: full instructions
    and the best k passages (`rag_dense`: see `retrieve`), after `rag_shots` solved examples with their passages ·
    incumbent: today's instructions · fine_tuned: the instructions the model was trained with (`style`).
    `instructions` replaces the full ones.
    """
    rung = rung.split("@")[0]  # rung@model: the same way to ask another model
    if wording := task.incumbent.get("instructions", "") if rung == "incumbent" else instructions:
        task = task.model_copy(update={"instructions_full": str(wording)})
    short = rung == "zero_shot" or (rung == "fine_tuned" and style == "short")
    chats = [tasks.render(task, example, "short" if short else "full") for example in examples]
    if rung == "few_shot":
        # Solved examples as earlier turns, the shape a chat model was trained on.
        shown = shots(task, examples, train, few_shot_k, few_shot_pick)
        turns = [
            [turn for e in solved for turn in tasks.render(task, e, answer=True)[1:]]
            for solved in shown
        ]
        return [[chat[0], *before, *chat[1:]] for chat, before in zip(chats, turns, strict=True)]
    if rung == "rag":
        found = retrieve(tasks.knowledge(task), [e.user_text for e in examples], rag_k, rag_dense)
        if not rag_shots:
            return [
                _with_articles(chat, articles) for chat, articles in zip(chats, found, strict=True)
            ]
        return _rag_with_shots(
            task, chats, found, shots(task, examples, train, rag_shots, few_shot_pick), rag_k
        )
    return chats


def _rag_with_shots(
    task: Task,
    chats: list[list[Message]],
    found: list[list[Article]],
    shown: list[list[TrainingExample]],
    rag_k: int,
) -> list[list[Message]]:
    """Passages stand before the question, in the solved examples too: what a small model sees done, it does."""
    solved = list({e.id: e for some in shown for e in some}.values())
    passages = dict(
        zip(
            (e.id for e in solved),
            retrieve(tasks.knowledge(task), [e.user_text for e in solved], rag_k),
            strict=True,
        )
    )
    before = {
        e.id: _before_question(tasks.render(task, e, answer=True)[1:], passages[e.id])
        for e in solved
    }
    return [
        [
            chat[0],
            *(turn for e in some for turn in before[e.id]),
            *_before_question(chat[1:], articles),
        ]
        for chat, articles, some in zip(chats, found, shown, strict=True)
    ]


def _before_question(turns: Sequence[Message], articles: Sequence[Article]) -> list[Message]:
    """The turns with the passages at the beginning of the last user turn."""
    last = max(i for i, turn in enumerate(turns) if turn.role == "user")
    text = "\n\n".join([*(passage(a) for a in articles), turns[last].content or ""])
    return [
        turn.model_copy(update={"content": text}) if i == last else turn
        for i, turn in enumerate(turns)
    ]


def effort(rung: str) -> tuple[bool, int]:
    """The sort key of "cheapest first": the given model before others (`rung@model`), then by the ladder."""
    technique, at, _ = rung.partition("@")
    return bool(at), ("incumbent", *LADDER).index(technique)


def available(rungs: Sequence[str], task: Task, train: Sequence[TrainingExample]) -> dict[str, str]:
    """rung -> why it cannot be asked here ("" when it can); an unknown name is an error."""
    if unknown := [name for name in rungs if name.split("@")[0] not in KNOWN]:
        raise WorkbookError(f"unknown rung {unknown[0]!r}; known are {', '.join(KNOWN)}")
    why = dict.fromkeys(KNOWN, "")
    if not tasks.knowledge(task):
        why["rag"] = f"{task.folder.name}/knowledge holds no articles"
    if not demonstrations(task, train, 1):
        why["few_shot"] = "the train part holds no verified example"
    if not task.incumbent:
        why["incumbent"] = "task.yaml names no incumbent"
    return {rung: why[rung.split("@")[0]] for rung in rungs}


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
        best = max(
            pool, key=lambda e: len(_labels(task, e) - shown)
        )  # max keeps the first of equals
        pool.remove(best)
        chosen.append(best)
        shown |= _labels(task, best)
    return chosen


def _labels(task: Task, example: TrainingExample) -> set[str]:
    value = strict_json(example.answer) or {}
    return {f"{name}={value.get(name)}" for name in task.scored_fields}


def _with_articles(chat: list[Message], articles: Sequence[Article]) -> list[Message]:
    """The chat with the passages in its system turn, after the instructions."""
    text = f"{chat[0].content}\n\nUse this:\n" + "\n\n".join(map(passage, articles))
    return [chat[0].model_copy(update={"content": text}), *chat[1:]] if articles else chat


def passage(article: Article) -> str:
    """The first words of an article, as far as they go into a prompt."""
    words = article.text.split()
    return " ".join(words[:PASSAGE_WORDS]) + " …" * (len(words) > PASSAGE_WORDS)


def shots(
    task: Task,
    examples: Sequence[TrainingExample],
    train: Sequence[TrainingExample],
    k: int,
    pick: str,
) -> list[list[TrainingExample]]:
    """k solved examples for every row: the same for all (fixed), or its nearest in the train part, the nearest last."""
    if pick == "fixed":
        return [demonstrations(task, train, k)] * len(examples)
    if pick != "nearest":
        raise WorkbookError(f"few_shot_pick {pick!r} is not known; choose fixed or nearest")
    usable = {e.id: e for e in train if e.quality == "verified" and e.part == "train" and e.answer}
    texts = [Article(id=e.id, title="", text=e.user_text) for e in usable.values()]
    found = retrieve(texts, [e.user_text for e in examples], k)
    return [[usable[article.id] for article in reversed(some)] for some in found]


def recall(examples: Sequence[TrainingExample], found: Sequence[Sequence[Article]]) -> list[float]:
    """Per row that names its gold articles: whether one of them was retrieved (recall@k of a single right article)."""
    pairs = [
        (set(map(str, _gold(e))), {a.id for a in some})
        for e, some in zip(examples, found, strict=True)
    ]
    return [float(bool(gold & ids)) for gold, ids in pairs if gold]


def _gold(example: TrainingExample) -> list[str]:
    named = example.meta.get("articles") or []
    return re.split(r"[;,]\s*", named) if isinstance(named, str) else list(named)


def retrieve(
    articles: Sequence[Article], questions: Sequence[str], k: int, dense: float = 0.0
) -> list[list[Article]]:
    """The k best articles per question by BM25 (bm25s); a question that shares no word with any gets none.

    `dense` is the weight of the meaning, between 0 (words alone) and 1: cosine of packaged embeddings (wordllama).
    """
    if not articles or k < 1:
        return [[] for _ in questions]
    import bm25s

    def words(texts: Sequence[str]) -> list[list[str]]:
        return bm25s.tokenize(list(texts), stopwords="en", return_ids=False, show_progress=False)

    index, found = bm25s.BM25(), []
    texts = [f"{a.title}\n{a.text}" for a in articles]
    index.index(words(texts), show_progress=False)
    meaning = _cosines(questions, texts) if dense else None
    for row, asked in enumerate(words(questions)):
        known = [word for word in asked if word in index.vocab_dict]
        scores = [float(s) for s in index.get_scores(known)] if known else [0.0] * len(articles)
        if (
            meaning is not None
        ):  # BM25 has no upper end, so it is set against the best article of this question
            top = max(scores) or 1.0
            scores = [
                (1 - dense) * s / top + dense * max(0.0, m)
                for s, m in zip(scores, meaning[row], strict=True)
            ]
        best = sorted(range(len(articles)), key=lambda i: (-scores[i], i))[:k]
        found.append([articles[i] for i in best if scores[i] > 0])
    return found


def _cosines(questions: Sequence[str], texts: Sequence[str]) -> list[list[float]]:
    try:
        import wordllama
    except ImportError:
        raise WorkbookError(
            'rag_dense needs wordllama: pip install -e ".[curate]"; or set rag_dense to 0'
        ) from None
    # its own default looks for the tokenizer in a folder that the package does not have, and then asks a hub
    model = wordllama.WordLlama.load(
        cache_dir=Path(wordllama.__file__).parent, disable_download=True
    )
    return (
        model.embed(list(questions), norm=True) @ model.embed(list(texts), norm=True).T
    ).tolist()
