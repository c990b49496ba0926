"""Exact and near duplicates, and leaks between parts, judged by the user's text alone.

A shared system prompt makes strangers look alike, and chains of likeness (a like b, b like c) end
in deleting nearly everything: so only the user's turns are compared, and a row goes only for a kept
row it matches itself.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import NamedTuple

from helpers.curate.labels import Label
from helpers.curate.searching import digest
from helpers.curate.similarity import Pair
from helpers.curate.stages import Question, Stage
from helpers.records import PARTS, Issue, TrainingExample, beside, in_order
from helpers.tasks import normalise, visible

RUN = 13  # words in a row that are a quotation (GPT-3's rule)
SHORT_RUN = 8  # texts of fewer words are compared by likeness alone
# number of a text -> those of other texts, Jaccard; the closest first
Neighbours = dict[int, list[tuple[int, float]]]
Pairs = Iterable[Pair]
# distinct texts, which of them are protected, both thresholds -> the pairs that are alike, and
# those (i, j) whose text j is protected
PairFinder = Callable[[Sequence[str], Sequence[bool], float, float], tuple[Pairs, Pairs]]


class Match(NamedTuple):
    """A kept row that another row is like, and its Jaccard index."""

    example: TrainingExample
    score: float


class Compared(NamedTuple):
    """The rows in the order in which they are judged, and their normalised user texts."""

    rows: Sequence[TrainingExample]
    text_of: Sequence[int]  # row -> number of its text
    texts: Sequence[str]  # each once
    protected: bytearray  # text -> 1 where a row with it is in validation or test


class KeptRows:
    """The rows kept so far, found by what a later row may share with them.

    What is held for each is a few numbers: there may be millions.
    """

    def __init__(self, compared: Compared) -> None:
        self._rows = compared.rows
        texts = compared.texts
        counts = {len(texts[i].split()) for i, marked in enumerate(compared.protected) if marked}
        self._run_lengths = sorted({min(RUN, n) for n in counts if n >= SHORT_RUN})
        self._first_of = array("q", [-1]) * len(texts)  # text -> its first row
        self._others_of: defaultdict[int, list[int]] = defaultdict(list)
        # of protected rows alone
        self._by_group: dict[str, int] = {}
        self._by_run: dict[int, int] = {}  # hash of the words -> row

    def add(self, place: int, example: TrainingExample, number: int, text: str) -> None:
        """Keep a row, whose text has this number."""
        if self._first_of[number] < 0:
            self._first_of[number] = place
        else:
            self._others_of[number].append(place)
        if example.part == "train":
            return
        self._by_group.setdefault(example.group, place)
        words = text.split()
        if len(words) >= SHORT_RUN:
            for run in _runs(words, min(RUN, len(words))):
                self._by_run.setdefault(hash(run), place)

    def like(self, example: TrainingExample, number: int, neighbours: Neighbours) -> list[Match]:
        """The kept rows with this row's text or one of its neighbours, the closest first.

        Their own system and tool turns are the same: with others it is another question.
        """
        matches = []
        for other, score in [(number, 1.0), *neighbours.get(number, ())]:
            if self._first_of[other] >= 0:
                for place in (self._first_of[other], *self._others_of.get(other, ())):
                    matches.append(Match(self._rows[place], score))
        return [match for match in matches if match.example.context == example.context]

    def of_group(self, group: str) -> TrainingExample | None:
        """The first protected row of a conversation."""
        place = self._by_group.get(group)
        return None if place is None else self._rows[place]

    def quoted_in(self, text: str) -> TrainingExample | None:
        """The protected row of which a text holds RUN words in a row, or all of a short one."""
        words = text.split()
        for length in self._run_lengths:
            for run in _runs(words, length):
                if hash(run) in self._by_run:
                    return self._rows[self._by_run[hash(run)]]
        return None


def _runs(words: Sequence[str], length: int) -> Iterator[tuple[str, ...]]:
    return (tuple(words[k : k + length]) for k in range(len(words) - length + 1))


def pairs_here(
    texts: Sequence[str], protected: Sequence[bool], near: float, across: float
) -> tuple[Pairs, Pairs]:
    """The PairFinder of one process."""
    from helpers.extras import big

    return big.like_pairs(map, texts, protected, near, across)


def deduplicate_examples(
    examples: Sequence[TrainingExample],
    label: Label,
    near_threshold: float = 0.8,
    leakage_threshold: float = 0.6,
    accepted: Container[str] = (),
    pairs_of: PairFinder = pairs_here,
) -> Stage:
    """Leave out copies, near-copies and leaks; each with the id and likeness of the kept row.

    Of two copies the more protected one stays (test, validation, train), then the verified, then
    the earlier. Copies in one part are duplicates, or, when their `label` differs, a question for a
    person; across parts, at the lower leakage threshold, they are leaks, and so is a row whose
    group (conversation) has a row in a more protected part.
    """
    compared = _compared(examples)
    texts = compared.texts
    lower = min(near_threshold, leakage_threshold)  # so that no near-duplicate stands in two parts
    pairs_of_both = pairs_of(texts, compared.protected, near_threshold, lower)
    near, across = (_neighbours(texts, pairs) for pairs in pairs_of_both)
    kept_rows = KeptRows(compared)
    stage = Stage.of(examples)
    for place, example in enumerate(compared.rows):
        number = compared.text_of[place]
        matches = kept_rows.like(example, number, near)
        leaking = kept_rows.like(example, number, across)
        leak = _leak(example, leaking, kept_rows, texts[number])
        copy = None if example.id in accepted else _duplicate(example, matches, label)
        issues = [issue for issue in (leak, copy) if issue]
        if leak or not copy:
            stage.questions += _conflicts(example, matches, label)
        if issues:
            stage.reject(example, issues, "leakage" if leak else "duplicates")
        else:
            stage.keep(example)
            kept_rows.add(place, example, number, texts[number])
    return stage


def _compared(examples: Sequence[TrainingExample]) -> Compared:
    """The examples in the order of their precedence, and each of their texts once."""
    precedences = []
    numbers = {}  # by a digest, since the texts may be too many to hold
    number_of = array("q")
    texts = beside(examples)
    protected = bytearray()
    for example in examples:
        precedences.append(
            (
                _protection(example),
                example.quality != "verified",
                example.created_at.timestamp(),
                example.id,
            )
        )
        text = visible(example.user_text)
        number = numbers.setdefault(digest(text), len(numbers))
        if number == len(protected):
            texts.append(text)
            protected.append(0)
        protected[number] |= example.part != "train"
        number_of.append(number)
    order = sorted(range(len(precedences)), key=precedences.__getitem__)
    text_of = array("q", [number_of[place] for place in order])
    return Compared(in_order(examples, order), text_of, texts, protected)


def _protection(example: TrainingExample) -> int:
    """The less, the better protected: test, validation, train."""
    return -PARTS.index(example.part or "train")


def _neighbours(texts: Sequence[str], pairs: Pairs) -> Neighbours:
    neighbours = {}
    for i, j, score in pairs:
        if i != j:
            neighbours.setdefault(i, []).append((j, score))
    for others in neighbours.values():
        if len(others) > 1:
            others.sort(key=lambda other: (-other[1], texts[other[0]]))
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
        same_text = visible(example.user_text) == visible(other.user_text)
        if same_text and normalise(example.answer) == normalise(other.answer):
            return _issue("exact_duplicate", "same text and answer", other, 1.0)
        return _issue(
            "near_duplicate",
            f"character 5-gram Jaccard {score:.2f} with a kept row of the same label",
            other,
            score,
        )
    return None


def _conflicts(
    example: TrainingExample, matches: Sequence[Match], label: Label
) -> Iterator[Question]:
    """Both rows of every pair that is alike but has different labels: one of the two is wrong."""
    for other, score in matches:
        if label(other) != label(example):
            yield Question(example, f"label_conflict with {other.id} (Jaccard {score:.2f})")
            yield Question(other, f"label_conflict with {example.id} (Jaccard {score:.2f})")
