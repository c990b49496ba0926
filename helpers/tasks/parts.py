"""Groups and parts: which rows belong together, and which part a group falls into, for ever."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from helpers.records import PARTS, Part, TrainingExample, WorkbookError, beside


def normalise(text: str) -> str:
    """NFKC, case-folded, runs of white space made one space: what "the same text" means here."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


# marks that nobody sees, or that turn or colour what stands beside them
_INVISIBLE = re.compile("[\u00ad\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufe0e\ufe0f\ufeff]")


def visible(text: str) -> str:
    """The same without marks that nobody sees: what readers take for one text."""
    return normalise(_INVISIBLE.sub("", unicodedata.normalize("NFKC", text)))


def group_of(user_text: str, conversation_id: str = "", parent_group: str = "") -> str:
    """The conversation, else the parent's group, else a hash of the normalised user text."""
    if conversation_id:
        return f"conversation:{conversation_id}"
    digest = hashlib.sha256(normalise(user_text).encode("utf-8", "surrogatepass")).hexdigest()
    return parent_group or f"text:{digest[:16]}"


def hash_order(row_id: str) -> str:
    """The sort key of every "first n rows": sha256 of the id.

    No row is favoured, and a larger n only adds rows.
    """
    return hashlib.sha256(row_id.encode("utf-8", "surrogatepass")).hexdigest()


def assign_part(group: str, seed: int, ratios: dict[str, float]) -> Part:
    """The part of a group: a pure function of sha256(f"{seed}:{group}"); new rows move nobody."""
    shares = list(ratios.values())
    if set(ratios) != set(PARTS) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-6:
        raise WorkbookError(
            f"split_ratios must name train, validation and test and add up to 1; got {ratios}"
        )
    digest = hashlib.sha256(f"{seed}:{group}".encode(errors="surrogatepass")).digest()
    point = int.from_bytes(digest[:8]) / 2**64
    if point < ratios["train"]:
        return "train"
    return "validation" if point < ratios["train"] + ratios["validation"] else "test"


def part_of_time(moment: datetime, starts: Mapping[str, datetime]) -> Part:
    """The part of a row by its time: what is newest is the test, as in use."""
    if moment >= starts["test"]:
        return "test"
    return "validation" if moment >= starts["validation"] else "train"


def with_parts(
    examples: Iterable[TrainingExample], seed: int, ratios: dict[str, float]
) -> Sequence[TrainingExample]:
    """Every example with its part."""
    placed = beside(examples)
    for example in examples:
        placed.append(with_part(example, seed, ratios))
    return placed


def with_part(example: TrainingExample, seed: int, ratios: dict[str, float]) -> TrainingExample:
    """An example with its part: the source's own split, and train where it is unverified."""
    part = example.part or "train"
    if example.part is None and example.quality == "verified":
        part = assign_part(example.group, seed, ratios)
    return example.model_copy(update={"part": part})
