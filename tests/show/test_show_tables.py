from __future__ import annotations

from helpers import show
from helpers.records import Estimate
from helpers.show import environment

LONG = "a whole sentence that is longer than the fifty characters at which a plain frame cuts " * 2


def test_a_table_shows_its_caption_and_every_cell_in_full_without_the_index():
    table = show.table([{"id": "r1", "why": LONG}], "What was <found>")
    page = table.to_html()
    assert (
        LONG in page
        and "<caption>What was &lt;found&gt;</caption>" in page
        and "row_heading" not in page
    )
    assert table.data["why"].tolist() == [LONG]


def test_what_a_model_or_a_customer_wrote_is_shown_and_not_interpreted():
    page = show.table([{"said": "<script>alert(1)</script>"}]).to_html()
    assert "<script>" not in page and "&lt;script&gt;" in page


def test_records_lists_and_numbers_become_readable_text():
    estimate = Estimate(value=0.41234, low=0.33, high=0.5, n=60)
    nothing = Estimate(value=0.0, low=0.0, high=1.0, n=0)
    rows = [{"a": estimate, "b": [1, 2], "c": 0.123456}, {"a": nothing, "b": (), "c": 61234.5}]
    said = show.table(rows).to_string()
    assert "0.412 [0.33, 0.5] n=60 1, 2 0.123" in said and "unknown" in said and "61,23" in said
    assert show.number(None) == "-"


def test_a_table_without_rows_keeps_its_columns():
    assert list(show.table([], "nothing", ["flip", "id"]).data.columns) == ["flip", "id"]
    assert "nothing" in show.table([], "nothing").to_html()


def test_the_map_is_a_picture_where_nothing_else_was_drawn():
    figure = environment.workbook_map()
    assert hasattr(figure, "number"), "made by pyplot, so that a notebook draws it"
    assert sum("\n" in text.get_text() for text in figure.axes[0].texts) == len(environment.STEPS)
