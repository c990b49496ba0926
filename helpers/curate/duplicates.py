"""Exact and near duplicates, and leaks between parts, judged by the user's text alone.

A shared system prompt makes strangers look alike, and chains of likeness (a like b, b like c) end
in deleting nearly everything: so only the user's turns are compared, and a row goes only for a kept
row it matches itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import NamedTuple

from helpers.curate.labels import Label
from helpers.curate.similarity import Pair, similar_sketches, sketched
from helpers.curate.stages import Question, Stage
from helpers.records import Issue, TrainingExample
from helpers.tasks import normalise

RUN = 13  # words in a row that are a quotation (GPT-3's rule)
SHORT_RUN = 8  # texts of fewer words are compared by likeness alone
PROTECTION = {"test": 0, "validation": 1, "train": 2}
Neighbours = dict[str, list[tuple[str, float]]]  # text -> other texts, Jaccard; the closest first
Pairs = Iterable[Pair]
# distinct texts, which of them are protected, both thresholds -> the pairs that are alike, and
# those (i, j) whose text j is protected
PairFinder = Callable[[Sequence[str], Sequence[bool], float, float], tuple[Pairs, Pairs]]


class Match(NamedTuple):
    """A kept row that another row is like, and its Jaccard index."""

    example: TrainingExample
    score: float


class KeptRows:
    """The rows kept so far, found by what a later row may share with them."""

    def __init__(self, protected_texts: Iterable[str]) -> None:
        counts = {len(text.split()) for text in protected_texts}
        self._run_lengths = sorted({min(RUN, n) for n in counts if n >= SHORT_RUN})
        self._by_text: defaultdict[str, list[TrainingExample]] = defaultdict(list)
        self._by_group: dict[str, TrainingExample] = {}
        self._by_run: dict[tuple[str, ...], TrainingExample] = {}  # protected rows alone

    def add(self, example: TrainingExample, text: str) -> None:
        """Keep a row; `text` is its normalised user text."""
        self._by_text[text].append(example)
        self._by_group.setdefault(example.group, example)
        words = text.split()
        if example.part != "train" and len(words) >= SHORT_RUN:
            for run in _runs(words, min(RUN, len(words))):
                self._by_run.setdefault(run, example)

    def like(self, text: str, neighbours: Neighbours) -> list[Match]:
        """The kept rows with this text or one of its neighbours, the closest first."""
        alike = [(text, 1.0), *neighbours.get(text, ())]
        return [
            Match(example, score)
            for other, score in alike
            for example in self._by_text.get(other, ())
        ]

    def of_group(self, group: str) -> TrainingExample | None:
        """The first kept row of a conversation."""
        return self._by_group.get(group)

    def quoted_in(self, text: str) -> TrainingExample | None:
        """The protected row of which a text holds RUN words in a row, or all of a short one."""
        words = text.split()
        for length in self._run_lengths:
            for run in _runs(words, length):
                if run in self._by_run:
                    return self._by_run[run]
        return None


def _runs(words: Sequence[str], length: int) -> Iterator[tuple[str, ...]]:
    return (tuple(words[k : k + length]) for k in range(len(words) - length + 1))


def pairs_in_memory(
    texts: Sequence[str], protected: Sequence[bool], near: float, across: float
) -> tuple[Pairs, Pairs]:
    """The PairFinder of one process, which holds the sketches of all texts."""
    sketches = sketched(texts)
    places = [place for place, is_protected in enumerate(protected) if is_protected]
    above = similar_sketches(sketches, sketches.of(places), across)
    return similar_sketches(sketches, sketches, near), ((i, places[j], s) for i, j, s in above)


def deduplicate_examples(
    examples: Iterable[TrainingExample],
    label: Label,
    near_threshold: float = 0.8,
    leakage_threshold: float = 0.6,
    accepted: Container[str] = (),
    pairs_of: PairFinder = pairs_in_memory,
) -> Stage:
    """Leave out copies, near-copies and leaks; each with the id and likeness of the kept row.

    Of two copies the more protected one stays (test, validation, train), then the verified, then
    the earlier. Copies in one part are duplicates, or, when their `label` differs, a question for a
    person; across parts, at the lower leakage threshold, they are leaks, and so is a row whose
    group (conversation) has a row in a more protected part.
    """
    ordered = sorted(examples, key=_precedence)
    texts = [normalise(example.user_text) for example in ordered]
    protected = {normalise(example.user_text) for example in ordered if example.part != "train"}
    distinct = list(dict.fromkeys(texts))
    marks = [text in protected for text in distinct]
    lower = min(near_threshold, leakage_threshold)  # so that no near-duplicate stands in two parts
    near, across = (
        _neighbours(distinct, pairs) for pairs in pairs_of(distinct, marks, near_threshold, lower)
    )
    kept_rows = KeptRows(protected)
    stage = Stage()
    for example, text in zip(ordered, texts, strict=True):
        matches = _asked_alike(example, kept_rows.like(text, near))
        leak = _leak(example, _asked_alike(example, kept_rows.like(text, across)), kept_rows, text)
        copy = None if example.id in accepted else _duplicate(example, matches, label)
        issues = [issue for issue in (leak, copy) if issue]
        if leak or not copy:
            stage.questions += _conflicts(example, matches, label)
        if issues:
            stage.reject(example, issues, "leakage" if leak else "duplicates")
        else:
            stage.kept.append(example)
            kept_rows.add(example, text)
    return stage


def _asked_alike(example: TrainingExample, matches: Iterable[Match]) -> list[Match]:
    """Those whose own system and tool turns are the same: with others it is another question."""
    return [match for match in matches if match.example.context == example.context]


def _precedence(example: TrainingExample) -> tuple[int, bool, float, str]:
    moment = example.created_at.timestamp()
    return _protection(example), example.quality != "verified", moment, example.id


def _protection(example: TrainingExample) -> int:
    return PROTECTION[example.part or "train"]


def _neighbours(texts: Sequence[str], pairs: Pairs) -> Neighbours:
    neighbours: Neighbours = {}
    for i, j, score in pairs:
        if i != j:
            neighbours.setdefault(texts[i], []).append((texts[j], score))
    for others in neighbours.values():
        others.sort(key=lambda other: (-other[1], other[0]))
    return neighbours


def _leak(
    example: TrainingExample, matches: Sequence[Match], kept_rows: KeptRows, text: str
) -> Issue | None:
    """The row of a more protected part that this row repeats, quotes or shares its group with."""
    own = _protection(example)
    above = [match for match in matches if _protection(match.example) < own]
    if above:
        other, score = max(above, key=lambda match: match.score)
        what = "the same user text as" if score == 1 else "close to"
        return _issue("potential_leakage", f"{what} a {other.part} row", other, score)
    quoted = kept_rows.quoted_in(text)
    if quoted is not None and _protection(quoted) < own:
        what = f"quotes a {quoted.part} row: {RUN} words in a row, or the whole of a shorter one"
        return _issue("potential_leakage", what, quoted)
    groupmate = kept_rows.of_group(example.group)
    if groupmate is not None and _protection(groupmate) < own:
        what = f"the same conversation as a {groupmate.part} row"
        return _issue("potential_leakage", what, groupmate)
    return None


def _issue(code: str, evidence: str, other: TrainingExample, score: float | None = None) -> Issue:
    rounded = None if score is None else round(score, 4)
    return Issue(code=code, evidence=evidence, matched_id=other.id, score=rounded)


def _duplicate(example: TrainingExample, matches: Sequence[Match], label: Label) -> Issue | None:
    """The kept row of the same part and label that this row repeats; the closest one is named."""
    for other, score in matches:
        if other.part != example.part or label(other) != label(example):
            continue
        same_text = normalise(example.user_text) == normalise(other.user_text)
        if same_text and normalise(example.answer) == normalise(other.answer):
            return _issue("exact_duplicate", "same text and answer", other, 1.0)
        evidence = f"character 5-gram Jaccard {score:.2f} with a kept row of the same label"
        return _issue("near_duplicate", evidence, other, score)
    return None


def _conflicts(
    example: TrainingExample, matches: Sequence[Match], label: Label
) -> Iterator[Question]:
    """Both rows of every pair that is alike but has different labels: one of the two is wrong."""
    for other, score in matches:
        if label(other) != label(example):
            yield Question(example, f"label_conflict with {other.id} (Jaccard {score:.2f})")
            yield Question(other, f"label_conflict with {example.id} (Jaccard {score:.2f})")
