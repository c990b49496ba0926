"""What is equal scores 1, whatever its spelling; what is not scores 0."""

import json
import random
from datetime import UTC, datetime

import pytest

from helpers.evaluate import equality, rungs, scorers
from helpers.evaluate.scorers import field_equal
from helpers.records import Message, TrainingExample
from helpers.tasks import Article


def example(gold):
    chat = [Message(role="user", content="q"), Message(role="assistant", content=gold)]
    now = datetime(2026, 11, 1, tzinfo=UTC)
    return TrainingExample(
        id="1", messages=chat, source="human", quality="verified", created_at=now, group="g"
    )


def call(arguments):
    return f'<tool_call>{{"name": "f", "arguments": {arguments}}}</tool_call>'


CASES = [
    ("contains", "上海", "我住在上海市中心。", 1),
    ("contains", "上海", "我住在北京。", 0),
    ("contains", "เชียงใหม่", "ฉันอยู่ที่เชียงใหม่ครับ", 1),
    ("contains", "부산", "저는 부산에 삽니다", 1),
    ("contains", "Oslo", "저는 Oslo에 삽니다", 1),
    ("contains", "cat", "concatenate", 0),
    ("contains", "500", "it costs 1,500", 0),
    ("contains", "7", "about 0.7 or -7", 0),
    ("contains", "7", "7% of them", 1),
    ("contains", "C#", "write C# here", 1),
    ("numeric", "-8", "it is −8 degrees", 1),
    ("numeric", "8", "it is −8 degrees", 0),
    ("numeric", "2.5", "2,5 Meter", 1),
    ("numeric", "25", "2,5 Meter", 0),
    ("numeric", "4-6", "6", 0),
    ("numeric", "6", "in 4–6 weeks", 0),
    ("numeric", "4-6", "4 – 6", 1),
    ("numeric", "3/4", "0.75", 1),
    ("numeric", "20%", "0.2", 1),
    ("numeric", "50", "50%", 1),
    ("numeric", "2300000", "2.3 million", 1),
    ("numeric", "4,5,6", "456", 0),
    ("numeric", "1.234,5", "1234.5", 1),
    ("numeric", "12345", "12’345", 1),
    ("numeric", "72", "72 (as on page 9)", 1),
    ("numeric", "2025-06-07", "2024-06-07", 0),
    ("numeric", "2025-06-07", "07.06.2025", 1),
    ("numeric", "٧", "7", 1),
    ("numeric", "5 m²", "7 m²", 0),
    ("numeric", "12", "10〜12日", 0),
    ("numeric", "12", "$10 to $12", 0),
    ("numeric", "-5", "温度是-5度", 1),
    ("numeric", "1.5", "1½ cups", 1),
    ("numeric", "5.5", "1½ cups", 0),
    ("numeric", "6.6e-34", "1.6e-19", 0),
    ("numeric", "1500000", "1.5 × 10⁶", 1),
    ("numeric", "106", "10⁶", 0),
    ("numeric", "1234567", "12,34,567", 1),
    ("numeric", "1250000", "12.5 lakh", 1),
    ("numeric", "1500000", "150万円", 1),
    ("numeric", "1500000", "$1.5M", 1),
    ("numeric", "300", "300 K", 1),
    ("numeric", "3.5", "٣٫٥", 1),
    ("numeric", "0.5", "50 percent", 1),
    ("numeric", "5‰", "5%", 0),
    ("numeric", "10:30", "11:30", 0),
    ("numeric", "Q3 2024", "Q2 2024", 0),
    ("numeric", "1_000_000", "1000000", 1),
    ("numeric", "30", "2 h 30 min", 0),
    ("numeric", "2 h 30 min", "2 hours and 30 minutes", 1),
    ("numeric", "1, 2, 3", "4, 5, 3", 0),
    ("numeric", "5 + 3 = 8", "8", 1),
    ("numeric", "120", "one hundred and twenty", 0),
    ("numeric", "20", "one hundred and twenty", 0),
    ("numeric", "one hundred and twenty", "One hundred and twenty", 1),
    ("numeric", "42", "forty-two", 1),
    ("numeric", "not stated", "not stated", 1),
    ("contains", "5", "5 000 €", 0),
    ("contains", "5", "5-10 days", 0),
    ("contains", "कल", "कला", 0),
    ("contains", "O'Brien", "It is O’Brien.", 1),
    ("contains", "5", "Answer:5", 1),
    ("contains", "42", "答案：42", 1),
    ("contains", "42", "total:42", 1),
    ("contains", "14:30", "2024-03-05 14:30", 1),
    ("contains", "75001", "3 rue, 12 75001 Paris", 1),
    ("contains", "212-555-1234", "+1 212-555-1234", 1),
    ("contains", "3", "1\n2\n3", 1),
    ("contains", "2024", "05/2024", 1),
    ("contains", "q3", "in Q3/2024", 1),
    ("contains", "Q3", "Q3-2024", 1),
    ("contains", "5", "5/5 stars", 1),
    ("contains", "Room 5", "Room 5 120 seats", 1),
    ("contains", "90210", "90210-1234", 1),
    ("contains", "192.168.1.1", "192.168.1.1:8080", 1),
    ("contains", "10", "5-10 days", 0),
    ("contains", "500", "1 500 €", 0),
    ("contains", "30", "14:30", 0),
    ("contains", "14", "14:30", 0),
    ("contains", "5", "5 million", 0),
    ("contains", "$5", "$5 000", 0),
    ("contains", "500", "in 2024 500 people", 1),
    ("contains", "1 500", "31 500", 0),
    ("contains", "1 500", "2 1 500", 1),
    ("contains", "1 500", "2 031 500", 0),
    ("contains", ".5", "it costs 1.5", 0),
    ("contains", "-5", "in 4-5 days", 0),
    ("contains", "-$5", "$3-$5", 0),
    ("contains", "$5", "a loss, -$5", 0),
    ("contains", "$5", "(-$5)", 0),
    ("contains", "$5", "One price—$5 a month", 1),
    ("contains", "$5", "US$5", 1),
    ("contains", "-5", "UTC-5", 1),
    ("numeric", "INV-2024-001", "INV-2023-001", 0),
    ("numeric", "INV-2024-001", "Invoice INV-2024-001 is paid", 1),
    ("numeric", "LH400-2", "LH500-2", 0),
    ("numeric", "gpt4-0613", "gpt3-0613", 0),
    ("numeric", "2.0.0-rc1", "2.0.0-rc2", 0),
    ("numeric", "1234567", "1234568", 0),
    ("numeric", "20241224", "20241225", 0),
    ("numeric", "4155550123", "4155550199", 0),
    ("numeric", "12345678901234567890", "12345678901234567891", 0),
    ("numeric", "1234567", "1,234,567", 1),
    ("numeric", "1234567", "1234567.0", 1),
    ("numeric", "0.333333", "0.3333333", 1),
    ("numeric", "30", "A maximum of 30 may be returned", 1),
    ("numeric", "3.14", "3.14 may", 1),
    ("numeric", "3", "Mars 3", 1),
    ("numeric", "Mars 3", "Mars 3", 1),
    ("numeric", "Mars 3", "Mars 2", 0),
    ("numeric", "2024-05-03", "3 May 2024", 1),
    ("numeric", "March 2024", "2024-03", 1),
    ("numeric", "March 2024", "2024-04", 0),
    ("numeric", "2024-03", "INV-2024-03", 0),
    ("numeric", "1200000", "1.2 mln", 1),
    ("numeric", "5 June", "June 5", 1),
    ("numeric", "5 June", "5 July", 0),
    ("numeric", "One Plus", "1", 0),
    ("numeric", "One Plus", "one plus", 1),
    ("numeric", "one-way", "1", 0),
    ("numeric", "one moment please", "1", 0),
    ("numeric", "two-thirds", "2", 0),
    ("numeric", "two thirds", "2", 0),
    ("numeric", "nineteen eighty-four", "103", 0),
    ("numeric", "nineteen eighty-four", "Nineteen Eighty-Four", 1),
    ("numeric", "twenty-one", "21", 1),
    ("numeric", "five days", "5 days", 1),
    ("numeric", "3000000", "a trip of three million", 1),
    ("numeric", "7", "seven", 1),
    ("numeric", "seven", "7", 1),
    ("numeric", "50 m²", "50m²", 1),
    ("numeric", "5 m3", "5m3", 1),
    ("numeric", "100", "100m2", 1),
    ("numeric", "100", "100 m²", 1),
    ("numeric", "5", "He gave away 3 and 5 are left", 1),
    ("numeric", "3 apples and 4 pears", "3 apples, 4 pears", 1),
    ("numeric", "3 apples and 4 pears", "4 pears", 0),
    ("numeric", "0", "0/5", 1),
    ("numeric", "5", "between 3 and 5", 0),
    ("numeric", "12", "$10 or $12", 0),
    ("numeric", "x = 3, y = 5", "x = 2, y = 5", 0),
    ("numeric", "x = 3, y = 5", "x = 3 and y = 5", 1),
    ("numeric", "5 + 3 = 4 * 2 = 8", "8", 1),
    ("numeric", "5+3=8\n#### 8", "8", 1),
    ("numeric", "-$5", "$5", 0),
    ("numeric", "-$5", "-5 $", 1),
    ("numeric", "$5", "$5", 1),
    ("numeric", "12", "$10-$12", 0),
    ("numeric", "$10-$12", "$10 - $12", 1),
    ("numeric", "1º de enero de 2024", "2024-01-01", 1),
    ("numeric", "1° gennaio 2024", "2024-01-01", 1),
    ("numeric", "$1.5M", "$1.5 M", 1),
    ("numeric", "1500000", "$1.5 M", 1),
    ("numeric", "1e999", "5", 0),
    ("numeric", "5", "1/0", 0),
    ("numeric", "4.0-6", "4 – 6", 1),
    ("numeric", "100", "100 %", 1),
    ("exact", "10²", "102", 0),
    ("exact", "שלום", "\u200fשלום", 1),
    ("exact", '{"a": 90071992547409931}', '{"a": 90071992547409932}', 0),
    ("exact", '{"a": [1, 2]}', '{"a":[1.0,2]}', 1),
    ("exact", '{"a": 1}', '{"a": 2, "a": 1}', 0),
    ("exact", '{"a": 1}', ' {"a":1}\n', 1),
    ("exact", '{"a": [1, 2]}', '{"a":[2,1]}', 0),
    ("exact", "ＡＢＣ", "abc", 1),
    ("exact", "", "", 0),
    ("tool_calls", call('{"n": 1}'), call('{"n": 1.0}'), 1),
    ("tool_calls", call('{"n": true}'), call('{"n": 1}'), 0),
    ("tool_calls", call("{}"), '<tool_call>{"name": "f"}</tool_call>', 1),
    ("tool_calls", call('{"q": "{\\"a\\": 1}"}'), call('{"q": "{\\"a\\":1}"}'), 1),
    ("tool_calls", call('{"at": "café"}'), call('{"at": "cafe\u0301"}'), 1),
    ("tool_calls", "No call.", "nonsense", 0),
]


@pytest.mark.parametrize(("scorer", "gold", "answer", "score"), CASES)
def test_an_answer_scores_by_what_it_means(scorer, gold, answer, score):
    score_of = scorers.scorer(scorer)
    assert score_of(example(gold), answer) == score
    assert score_of(example(gold), gold) == (gold != "")


def test_a_number_of_any_length_is_compared_and_whole_ones_exactly():
    for digits in (7, 20, 300, 400, 5000):
        gold = "9" * digits
        assert scorers.scorer("numeric")(example(gold), f"It is {gold}.") == 1
        assert scorers.scorer("numeric")(example(gold), gold[:-1] + "8") == 0
    assert scorers.scorer("numeric")(example("5"), f"{'9' * 5000} 1/2 and 1e999") == 0
    assert scorers.scorer("numeric:0")(example("0.3333333"), "0.333333") == 0
    assert scorers.scorer("numeric:1e-6")(example("1234567"), "1234568") == 1


DAYS = (
    "2026-12-24",
    "24.12.2026",
    "12/24/2026",
    "24/12/2026",
    "December 24th, 2026",
    "24. Dezember 2026",
    "24 décembre 2026",
    "24 de diciembre de 2026",
    "24 декабря 2026",
    "24-Dec-2026",
    "2026年12月24日",
    "2026년 12월 24일",
)


def test_a_day_is_the_same_in_every_form_and_no_other_day_is():
    score_of = scorers.scorer("numeric")
    for form in DAYS:
        other = form.replace("24", "23")
        for day in DAYS:
            assert score_of(example(day), f"It is {form}.") == 1, (day, form)
            assert score_of(example(day), f"It is {other}.") == 0, (day, other)
    assert score_of(example("May 2026"), "June 2026") == 0
    assert score_of(example("2026-05-04"), "04/05/2026") == 0, "in two ways, so in none"


@pytest.mark.parametrize("unit", ["km2", "m³", "kg CO2", "°C", "USD", "Mio. €", "H₂O", "件", "%"])
def test_a_number_is_that_of_its_text_whatever_its_unit(unit):
    score_of = scorers.scorer("numeric")
    for gold in ("5", "-2", "1,250.5"):
        for number in ("5", "-2", "1,250.5"):
            answer = f"It is {number} {unit}."
            assert score_of(example(f"{gold} {unit}"), answer) == (gold == number), (gold, answer)


FIELDS = [
    (10, 10.0, True),
    ({"a": {"b": 10}}, {"a": {"b": 10.0}}, True),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
    ("café", "cafe\u0301", True),
    (True, 1, False),
    ({"a": [True]}, {"a": [1]}, False),
    (12345678901234567890, 1.2345678901234567e19, True),
    (90071992547409931, 90071992547409932, False),
    (1.5, 10**400, False),
    ("m²", "m2", False),
    (None, 0, False),
]


@pytest.mark.parametrize(("gold", "answer", "equal"), FIELDS)
def test_a_field_is_compared_as_json_at_every_depth(gold, answer, equal):
    assert field_equal({"f": gold}, {"f": answer}, "f", {"properties": {}}) is equal


def test_a_list_is_a_set_only_where_the_schema_says_so():
    tags = {"type": "array", "items": {"type": "string"}}
    for schema, equal in ((tags, False), (tags | {"uniqueItems": True}, True)):
        whole = {"properties": {"tags": schema}}
        gold, answer = {"tags": ["a", "b"]}, {"tags": ["b", "a"]}
        assert field_equal(gold, answer, "tags", whole) is equal
    assert field_equal({"tags": ["a", "a"]}, {"tags": ["a"]}, "tags", whole) is False


def test_what_a_schema_refers_to_says_whether_order_counts():
    """pydantic writes classes as references and what may be null as anyOf."""
    labels = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
    defined = {"$defs": {"labels": labels, "box": {"properties": {"in": labels}}}}
    reference = {"$ref": "#/$defs/labels"}
    for field in (reference, {"anyOf": [reference, {"type": "null"}]}, {"allOf": [reference]}):
        schema = defined | {"properties": {"f": field}}
        assert field_equal({"f": ["a", "b"]}, {"f": ["b", "a"]}, "f", schema), field
    tree = {"anyOf": [{"$ref": "#/$defs/tree"}, labels]}
    for choice in ({"$ref": "#/oneOf/0"}, {"$ref": "#/$defs/tree"}, {"$ref": "#/oneOf/x/y"}):
        schema = {"$defs": {"tree": tree}, "oneOf": [labels], "properties": {"f": choice}}
        is_set = "oneOf" not in choice["$ref"]  # what is in no object is not looked up
        assert field_equal({"f": ["a", "b"]}, {"f": ["b", "a"]}, "f", schema) is is_set, choice
    boxes = {"type": "array", "items": {"$ref": "#/$defs/box"}}
    schema = defined | {"properties": {"f": boxes}}
    gold = {"f": [{"in": ["a", "b"]}, {"in": []}]}
    assert field_equal(gold, {"f": [{"in": ["b", "a"]}, {"in": []}]}, "f", schema)
    assert not field_equal(gold, {"f": gold["f"][::-1]}, "f", schema)


def test_gold_equals_itself_and_none_of_200_mutations():
    rng = random.Random(3)
    gold = {"id": 7, "name": "Zoë", "tags": ["x", "y"], "box": {"w": 1.5, "ok": True, "none": None}}
    spelled = json.dumps(gold)
    assert equality.same_text(spelled, json.dumps(gold, indent=2, sort_keys=True))
    wrong = 0
    for _ in range(200):
        mutant = json.loads(spelled)
        place = rng.choice([mutant, mutant["box"]])
        key = rng.choice(list(place))
        if rng.random() < 0.3:
            del place[key]
        elif isinstance(place[key], bool):
            place[key] = int(place[key])
        elif isinstance(place[key], int | float):
            place[key] += rng.choice([-1, 1])
        else:
            place[key] = [place[key]]
        wrong += not equality.same_text(spelled, json.dumps(mutant))
    assert wrong == 200


@pytest.mark.parametrize(
    ("texts", "question"),
    [
        (["如何退货和退款", "配送需要几天"], "我想退货"),
        (["返品の方法", "配達の日数"], "返品したい"),
        (["วิธีคืนสินค้า", "เวลาจัดส่ง"], "อยากคืนสินค้า"),
        (["반품하는 방법", "배송 기간"], "반품을 원해요"),
    ],
)
def test_articles_are_found_in_scripts_without_spaces(texts, question):
    articles = [Article(id=str(i), title="", text=each) for i, each in enumerate(texts)]
    (result,) = rungs.retrieve(articles, [question], 1)
    assert [article.id for article in result] == ["0"]
