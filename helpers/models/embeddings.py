"""Meaning as vectors, offline: WordLlama's packaged 256-dimensional weights (extra `curate`)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.records import WorkbookError

if TYPE_CHECKING:
    import numpy as np


def embed(texts: Sequence[str]) -> np.ndarray:
    """One row of length 1 per text, shape (n, 256), float32: a dot product is a cosine. An empty text is all zeros."""
    import numpy as np

    vectors = np.zeros((len(texts), 256), dtype=np.float32)
    filled = [i for i, text in enumerate(texts) if text.strip()]
    if filled:
        vectors[filled] = _encoder().embed([texts[i] for i in filled], norm=True)
    return np.nan_to_num(vectors)


@cache
def _encoder() -> Any:
    try:
        import wordllama
    except ImportError:
        raise WorkbookError(
            'comparing meanings needs the package wordllama: pip install -e ".[curate]"'
        ) from None
    # Its own load() asks a hub for a tokenizer that the package ships in a folder of another name.
    return wordllama.WordLlama.load(
        cache_dir=Path(wordllama.__file__).parent, disable_download=True
    )
