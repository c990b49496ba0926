from helpers import redaction
from helpers.curate import searching

TEXTS = [
    "nothing here",
    "write to mara@example.com",
    "AKIA" + "4XKQ7ZJ2LMN3PQRT",
    "call +44 7700 900123 or a@example.org",
]


def test_a_text_is_searched_once_for_personal_data_and_secrets(monkeypatch):
    want = [(redaction.find_personal_data(t), redaction.find_secrets(t)) for t in TEXTS]
    look_up = searching.search_here(TEXTS)
    assert [look_up(text) for text in TEXTS] == want == searching.search_texts(TEXTS)
    monkeypatch.setattr(searching, "find_personal_data", None)
    assert [look_up(text) for text in TEXTS] == want
