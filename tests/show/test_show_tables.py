from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

from helpers import show
from helpers.records import Allowance, Estimate, Finding
from helpers.show import environment, evaluate, registry, train

LONG = "a whole sentence that is longer than the fifty characters at which a plain frame cuts " * 2


def test_a_table_shows_its_caption_and_every_cell_in_full_without_the_index():
    table = show.table([{"id": "r1", "why": LONG}], "What was <found>")
    page = table.to_html()
    assert (
        LONG in page
        and ">What was &lt;found&gt;</caption>" in page
        and page.count('<th scope="col"') == 2
    )
    assert "<style" not in page, "looks stand in the cells: an untrusted notebook keeps them"
    assert table.data["why"].tolist() == [LONG]


def test_a_table_without_rows_says_so_instead_of_heads_alone():
    for columns in (None, ["slice", "verdict"]):
        table = show.table([], "By slice", columns)
        assert table.caption == "By slice: none" and ">By slice: none<" in table.to_html()
    assert show.table([]).caption == "rows: none"
    assert show.table([{"a": 1}], "By slice").caption == "By slice"


def test_training_without_a_limit_is_no_number_of_nineteen_digits():
    lines = [
        Allowance(what="training", unit="tokens", largest=most, limit=60_000)
        for most in (sys.maxsize, 59_000)
    ]
    said = environment.budget_table(lines).to_string()
    assert "no limit 60,000 no" in said and "59,000 60,000 yes" in said and "9,223" not in said


def test_what_a_model_or_a_customer_wrote_is_shown_and_not_interpreted():
    page = show.table([{"said": "<script>alert(1)</script>"}]).to_html()
    assert "<script>" not in page and "&lt;script&gt;" in page


def test_records_lists_and_numbers_become_readable_text():
    estimate = Estimate(value=0.41234, low=0.33, high=0.5, n=60)
    nothing = Estimate(value=0.0, low=0.0, high=1.0, n=0)
    rows = [{"a": estimate, "b": [1, 2], "c": 0.123456}, {"a": nothing, "b": (), "c": 61234.5}]
    said = show.table(rows).to_string()
    assert "0.412 [0.33, 0.5] n=60 1, 2 0.123" in said and "unknown" in said and "61,23" in said
    assert [show.words(value) for value in (None, 12345, True, 2e-4)] == [
        "-",
        "12,345",
        "yes",
        "0.0002",
    ]


def test_numbers_just_below_a_thousand_are_no_powers_of_ten():
    assert [show.number(value) for value in (999.4, 999.7, -999.9, 1000.4)] == [
        "999",
        "1,000",
        "-1,000",
        "1,000",
    ]


def test_a_table_without_rows_keeps_its_columns():
    assert list(show.table([], "nothing", ["flip", "id"]).data.columns) == ["flip", "id"]
    assert "nothing" in show.table([], "nothing").to_html()


def test_a_figure_says_in_words_what_it_shows():
    figure = train.loss_figure([{"step": 1, "loss": 2.0}], 48, 0)
    text = show.alt_text(figure)
    assert "optimiser step" in text and "train, 48 rows" in text
    page = show.figure_html(figure)
    assert page.startswith('<img alt="') and "data:image/png;base64," in page


def test_letters_on_a_tinted_ground_can_be_read_in_both_themes():
    def luminance(colour: str) -> float:
        shades = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shades]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    ground, ink = re.search(r"background:(#\w{6});color:(#\w{3});", train.LEARNT).groups()
    ink = "#" + "".join(2 * c for c in ink[1:])
    assert (luminance(ground) + 0.05) / (luminance(ink) + 0.05) >= 4.5
    for path in Path(show.__file__).parent.glob("*.py"):
        assert not re.search(r'[;"]color:', path.read_text().replace(train.LEARNT, "")) or (
            'aria-hidden="true" style="color:' in path.read_text()
        ), f"{path.name}: letters keep the theme's own colour"


def test_black_numbers_can_be_read_on_every_shade_of_a_picture_of_counts():
    colour = SimpleNamespace(field="colour", pairs=[("red", "red")] * 40)
    [axis] = evaluate.confusion([colour], show_text=True).axes
    [image] = axis.images
    [number] = axis.texts
    assert (number.get_text(), number.get_color()) == ("40", "black")
    shades = image.to_rgba(40)[:3]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shades]
    ground = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    assert (ground + 0.05) / 0.05 >= 4.5


def test_a_small_cost_is_not_shown_as_nothing():
    cost = Estimate(value=0.00021, low=0.0002, high=0.00022, n=12)
    assert str(cost) == "0.00021 [0.0002, 0.00022] n=12"


def test_progress_tells_rows_rate_and_time_left_by_tenths_and_half_minutes(monkeypatch):
    clock = iter([0.0, *(3.0 * n for n in range(1, 101))])
    monkeypatch.setattr(show.time, "monotonic", lambda: next(clock))
    lines: list[str] = []
    progress = show.Progress("few_shot", 100, lines.append)
    for _ in range(100):
        progress.add(1)
    assert len(lines) == 10
    assert lines[0] == "few_shot: 10 of 100 rows, 0.333 a second, 270 s left"
    assert lines[-1].startswith("few_shot: 100 of 100 rows") and lines[-1].endswith(" 0 s left")


def test_a_slow_thing_says_a_line_each_half_minute_and_a_quick_one_none(monkeypatch):
    clock = iter([0.0, *(20.0 * n for n in range(1, 9))])
    monkeypatch.setattr(show.time, "monotonic", lambda: next(clock))
    lines: list[str] = []
    progress = show.Progress("judge", 1000, lines.append)
    for _ in range(8):
        progress.add(1)
    assert len(lines) == 4
    monkeypatch.undo()
    lines.clear()
    show.Progress("quick", 3, lines.append).reach(3)
    assert lines == []


def test_progress_never_goes_back():
    progress = show.Progress("rows", 10, lambda line: None)
    for rows in (4, 2, 40, 5):
        progress.reach(rows)
    assert progress.done == 5


def test_headless_only_texts_of_a_shipped_task_can_be_shown(monkeypatch):
    text = "My hub is offline again and nobody answers"
    monkeypatch.setenv("WORKBOOK_HEADLESS", "1")
    assert text not in show.masked(text, show_text=True)
    monkeypatch.setenv("WORKBOOK_SHIPPED_TASK", "1")
    assert show.masked(text, show_text=True) == text
    assert text not in show.masked(text, show_text=False)


def test_numbers_on_the_cost_axes_are_numbers_and_break_evens_are_marked_inside_them():
    from record_toys import decision

    from helpers.records import Way
    from helpers.show import decide as views

    def way(cost: float, monthly: float) -> Way:
        return Way(cost_per_request=cost, one_off_usd=0.0, monthly_usd=monthly, elapsed="a day")

    ways = {"prompt": way(1e-3, 30.0), "few_shot": way(1e-3, 30.0), "fine_tuned": way(1e-5, 900.0)}
    needed = {"prompt": 878_000, "few_shot": 879_000, "rag": 9_900_000}
    toy = decision()
    economics = toy.economics.model_copy(update={"ways": ways, "break_even_against": needed})
    figure = views.cost_over_volume(toy.model_copy(update={"economics": economics}))
    figure.canvas.draw()
    axis = figure.axes[0]
    labels = [label.get_text() for label in (*axis.get_xticklabels(), *axis.get_yticklabels())]
    assert "1,000" in labels and not any("$" in label for label in labels)
    legend = axis.get_legend()
    shown = [text.get_text() for text in legend.get_texts()]
    assert "tuning is cheaper from 878,000, 879,000, 9,900,000" in shown
    box = legend.get_window_extent()
    assert box.x1 <= figure.bbox.x1 and box.x0 >= 0
    without = toy.economics.model_copy(update={"ways": {}, "break_even_against": needed})
    views.cost_over_volume(toy.model_copy(update={"economics": without}))  # nothing was measured


def test_a_bar_reaches_its_end(monkeypatch):
    monkeypatch.setattr(show, "kernel", lambda: True)
    monkeypatch.setattr(show, "unattended", lambda: False)
    drawn = []
    monkeypatch.setattr(show.Progress, "draw", lambda self, now: drawn.append(self.done))
    monkeypatch.setattr(show.time, "monotonic", iter(range(10**6)).__next__)
    assert list(show.told(range(1234), 1234, "checks")) == list(range(1234))
    assert drawn[-1] == 1234 and drawn == sorted(set(drawn))


def test_a_target_is_shown_as_it_was_set():
    estimate = Estimate(value=0.97, low=0.95, high=0.98, n=400)
    finding = Finding(name="accuracy", verdict="fail", threshold=0.9995, estimate=estimate)
    targets = SimpleNamespace(targets={"accuracy": finding})
    assert evaluate.target_table(targets).data["target"].tolist() == ["0.9995"]


def test_a_route_says_under_which_name_and_where_it_serves():
    route = {"version": "v1", "model_id": "m-7", "provider": "local", "generation": 3}
    other = route | {"model_id": "ft:m:8", "endpoint": "https://models.example/v1"}
    table = registry.routes_table({"a": route, "b": other}).data
    assert table["served as"].tolist() == ["m-7", "ft:m:8 at https://models.example/v1"]
    assert "no" in registry.routes_table({}).to_html()
