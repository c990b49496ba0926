"""Meaning as vectors, offline: WordLlama's packaged 256-dimensional weights (extra `curate`)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.records import WorkbookError

if TYPE_CHECKING:
    import numpy as np


def load_embedder(needed_by: str = "comparing meanings") -> Any:
    """WordLlama's model, loaded once; its `embed(texts, norm=True)` is an array (n, 256).

    WorkbookError that names `needed_by` where the package is not installed.
    """
    try:
        return _packaged_model()
    except ImportError:
        raise WorkbookError(f'{needed_by} needs wordllama: pip install -e ".[curate]"') from None


@cache
def _packaged_model() -> Any:
    import wordllama

    # Its own load() asks a hub for a tokenizer that the package ships in a folder of another name.
    folder = Path(wordllama.__file__).parent
    return wordllama.WordLlama.load(cache_dir=folder, disable_download=True)


def embed(texts: Sequence[str]) -> np.ndarray:
    """One row of length 1 per text, shape (n, 256), float32, so that a dot product is a cosine.

    An empty text is all zeros.
    """
    import numpy as np

    vectors = np.zeros((len(texts), 256), dtype=np.float32)
    filled = [i for i, text in enumerate(texts) if text.strip()]
    if filled:
        vectors[filled] = load_embedder().embed([texts[i] for i in filled], norm=True)
    return np.nan_to_num(vectors)
