"""Numbers, ranges and dates in texts: which one a text ends with, and whether it holds one."""

from __future__ import annotations

import math
import re
from functools import partial

from helpers.evaluate.equality import LETTER, UNSPACED, folded, plain_text, same_text

_SCALES = {
    1e-3: "‰",
    1e3: "thousand thousands tausend tsd k",
    1e4: "万 萬 만",
    1e5: "lakh lakhs lac",
    1e6: "million millions millionen mio millón millones milhões milioni mln",
    1e7: "crore crores",
    1e8: "億 亿 억",
    1e9: "billion billions bn milliarde milliarden milliard milliards mrd mld",
    1e12: "trillion trillions",
}
_SPELLED = {word: scale for scale, words in _SCALES.items() for word in words.split()}
_LARGE = "|".join(_SPELLED).replace("|k", r"|(?<=\d)k")  # 300 K is no 300,000
_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    " sixteen seventeen eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_COUNTED = {word: number for number, word in enumerate(_ONES.split())}
_COUNTED |= {word: 10 * tens for tens, word in enumerate(_TENS.split(), 2)}
_TO_99 = (
    rf"(?:(?:{_TENS.replace(' ', '|')})(?:[ -](?:{'|'.join(_ONES.split()[1:10])}))?"
    rf"|{_ONES.replace(' ', '|')})"
)
_IN_WORDS = re.compile(  # not one-way, two thirds, two and a half
    rf"(?<!no )(?<!the )\b{_TO_99}\b"
    r"(?!-[a-z]|(?: and a)?[ -](?:half|halves|thirds?|quarters?|fifths?|tenths?)\b)"
)
_UNIT_IN_WORDS = "percent|km|kg|(?:second|minute|hour|day|week|month|year|dollar|euro|mile)s?"
_ALL_IN_WORDS = re.compile(rf"{_TO_99}(?: (?:million|billion))?(?: (?:{_UNIT_IN_WORDS}))?[.!]?")
_MONTHS = (  # of January, of February …
    "january jan januar janvier enero gennaio janeiro januari января",
    "february feb februar février febrero febbraio fevereiro februari февраля",
    "march mar märz mars marzo março maart марта",
    "april apr avril abril aprile апреля",
    "may mai mayo maggio maio mei мая",
    "june jun juni juin junio giugno junho июня",
    "july jul juli juillet julio luglio julho июля",
    "august aug août agosto augustus августа",
    "september sep sept septembre septiembre settembre setembro сентября",
    "october oct oktober okt octobre octubre ottobre outubro октября",
    "november nov novembre noviembre novembro ноября",
    "december dec dezember dez décembre diciembre dicembre dezembro декабря",
)
_MONTH_OF = {name: number for number, names in enumerate(_MONTHS, 1) for name in names.split()}
_MONTH = rf"\b({'|'.join(_MONTH_OF)})\b\.?"
_IS_A_WORD = ("may", "march", "mar", "mars")  # "30 may be returned", the planet, the sea
_MONTH_ALONE = rf"\b({'|'.join(name for name in _MONTH_OF if name not in _IS_A_WORD)})\b\.?"
_DAY = r"(?<![\d.,])(\d{1,2})(?:st|nd|rd|th|er|[.°o])?(?: of| de)?[ -]"  # º was made an o
_DATES = (  # y, m, d: what the groups of a pattern are
    (
        r"(?<!\d)(\d{4})(?:[-/.]|[年년] ?)(\d\d?)(?:[-/.]|[月월] ?)(\d\d?)(?!\d)(?:日|일|t(?=\d))?",
        "ymd",
    ),
    (r"(?<![\d-])((?:19|20)\d\d)-(0[1-9]|1[0-2])(?![-\d])", "ym"),
    (r"(?<![\d/])(1[3-9]|2\d|3[01])/(\d{1,2})/(\d{4})(?!\d)", "dmy"),
    (r"(?<![\d/])(\d{1,2})/(1[3-9]|2\d|3[01])/(\d{4})(?!\d)", "mdy"),
    (r"(?<!\d)(\d{1,2})\.(\d{1,2})\.(\d{4})(?!\d)", "dmy"),
    (rf"{_DAY}{_MONTH}(?:,| of| de)?[ -](\d{{4}})(?!\d)", "dmy"),
    (rf"{_MONTH} (\d{{1,2}})(?:st|nd|rd|th)?,? (\d{{4}})(?!\d)", "mdy"),
    (rf"{_MONTH}(?:,| of| de)? (\d{{4}})(?!\d)", "my"),
    (rf"{_DAY}{_MONTH_ALONE}", "dm"),
    (rf"{_MONTH_ALONE} (\d{{1,2}})(?:st|nd|rd|th)?(?![\d.,:%])", "md"),
)
_READ_AS = (
    (r"\bq([1-4])[ /-]?(\d{4})\b", r" \2-9\1-00 "),  # a quarter is no month
    (r"\b(\d{4})[ /-]?q([1-4])\b", r" \1-9\2-00 "),
    (r"\\[dt]?frac\{(\d+)\}\{(\d+)\}", r"\1/\2"),
    (r"(?<=\d) ?[x×*·⋅] ?10\^(?=-?\d)", "e"),
    (r"\b10\^(?=-?\d)", "1e"),
    (r"\b(?:between|zwischen|entre) (\S*\d\S*) (?:and|und|et|y|e) (?=\S?\d)", r"\1-"),
    (r"(?<![\w)])(?<![\w)] )-([$€£¥₹]) ?(?=\d)", r"\1-"),  # of -$5
    (r"(?<=\d)(?=(?:[kcdm]?m|ft)\^?[23]\b)", " "),  # of 50m²
    (r"\b(?:minus|negative) (?=[\d.])|(?:负|負|マイナス)(?=\d)", "-"),
)
_DIGITS = (
    r"(?:\d{1,3}(?:[ '_]\d{3})+(?!\d)(?:[.,]\d+)?|\d+(?:[.,]\d+)*|(?<![\w.])\.\d+)(?:e[-+]?\d+)?"
)
_UNIT = r"(?: ?(?:[^\W\d_]{1,7}\.?|[%°$€£¥₹]))?"
_SPAN = "h|hrs?|hours?|std|stunden?|heures?|horas?|ft|feet|lbs?|m|mins?|minutes?|小时|時間|시간|分"
_TO = (  # between two numbers that are not one: a range, a clock, a ratio, a list, 2 h 30 min
    r"(?:\.\.+|[:^/']|至|到|から| ?[-~x×] ?| (?:to|bis|à|a|до|or|oder|ou|или) |"
    rf" ?(?:{_SPAN}),?(?: and| und| et| y)? ?)"
)
_PERCENT = "percent|per ?cento?|prozent|procent|pct|por ?cient?o|por cento|pour ?cent"
_QUANTITY = re.compile(
    rf"(?P<date>\d{{4}}-\d\d-\d\d)|(?P<sign>(?<!{LETTER})(?<!\))[-+])?"
    rf"(?:(?P<whole>\d+) (?=\d+/\d))?(?P<first>{_DIGITS})"
    rf"(?P<others>(?:{_UNIT}{_TO}[$€£¥₹]?[-+]?{_DIGITS})*)"
    rf"(?P<percent> ?(?:%|(?:{_PERCENT})(?!{LETTER})))?(?: ?(?P<word>{_LARGE})(?!{LETTER}))?"
)
# what counts only where nothing else does: in brackets, or behind letters as in CO2 and m^2
_ASIDES = (  # but of no code: INV-2024-001, 2.0.0-rc1
    r"\([^()]*\)",
    rf"(?<!\w)(?<!\d[-./:])[^\W\d_{UNSPACED}]+\^?-?\d+(?:[.,]\d+)*(?![-./:]?\d)",
)
_ASSIGNED = re.compile(r"[^\W\d_]\s*=.*[^\W\d_]\s*=", re.S)  # x = 3, y = 5 has no one result
# a gold answer of such a form is part of something else behind the one, and before the other
_OF_ITS_OWN = (
    (rf"{LETTER}.*", rf"(?<!{LETTER})", ""),
    (rf".*{LETTER}", "", rf"(?!{LETTER})"),
    (r"\d.*", r"(?<![-\d])(?<!\d[.,'])", ""),
    # .5 of 1.5, -5 of 4-5, $5 of -$5; a dash behind a word is no minus
    (r"[^\w\s]+\d.*", r"(?<!\d)(?<!\d-)(?<![\s(]-)(?<!^-)", ""),
    (r".*\d", "", rf"(?!\d|[.,']\d| ?(?:{_LARGE})(?!{LETTER}))"),
    (r"\d\d?", r"(?<!\d:)", r"(?!:\d\d(?!\d))"),  # a clock
    (r"[\W_]?\d{1,3}(?: \d{3})*", "", r"(?! \d{3}(?!\d))"),  # groups of three
    (r"\d{3}(?: \d{3})*", r"(?<!(?<!\d\d\d)\d )", ""),
)
FEW_WORDS = 3  # with more of them a gold answer is an explanation
Quantity = tuple[float | str, bool]  # a number, or the text of a range, list or date; in percent?


def holds(answer: str, gold: str) -> bool:
    """Whether the gold answer stands in the answer as words or numbers of their own, by script."""
    word = folded(gold)
    before = ""
    after = ""
    for form, not_before, not_behind in _OF_ITS_OWN:
        if re.fullmatch(form, word):
            before += not_before
            after += not_behind
    if re.fullmatch(r"[\W_]?\d+", word):  # of a range, 5-10: the second is no shorter
        after += rf"(?!-\d{{{len(word.strip('$€£¥₹'))},}}(?![-\d]))"
    return word != "" and re.search(before + re.escape(word) + after, folded(answer)) is not None


def same_number(gold: str, answer: str, tolerance: float | None, mark: str = "") -> bool:
    """Whether the last number, date or range of both is the same; `mark` stands before decimals.

    A gold answer of several numbers and few words wants them all; one without any is a text.
    Without a tolerance whole numbers are the same exactly, others within a millionth.
    """
    result = gold.rpartition("#")[2]
    if not _ASSIGNED.search(result):
        result = result.rpartition("=")[2]
    wanted = quantities(result, mark) or quantities(gold, mark)
    in_words = not any(map(str.isdigit, plain_text(gold)))
    if not wanted or (in_words and not _ALL_IN_WORDS.fullmatch(plain_text(gold).casefold())):
        return same_text(gold, answer)
    if len(re.findall(r"[^\W\d_]{3,}", gold)) > FEW_WORDS:
        wanted = wanted[-1:]
    last = quantities(answer, mark)[-len(wanted) :]
    return len(last) == len(wanted) and all(map(partial(_is_same, tolerance), wanted, last))


def _is_same(tolerance: float | None, gold: Quantity, answer: Quantity) -> bool:
    """A share is the same in percent, and a bare number may be meant in percent."""
    (wanted, wants_percent), (value, is_percent) = gold, answer
    if isinstance(wanted, str) or isinstance(value, str):
        return wanted == value
    factors = [1.0]
    if wants_percent != is_percent:
        factors.append(100.0 if wants_percent else 0.01)
    elif tolerance is None and isinstance(wanted, int) and isinstance(value, int):
        return wanted == value
    most = 1e-6 if tolerance is None else tolerance
    return any(math.isclose(value * factor, wanted, rel_tol=most) for factor in factors)


def quantities(text: str, mark: str = "") -> list[Quantity]:
    """The numbers, ranges and dates of a text, in order."""
    text = plain_text(text)  # of $1.5 M and 1.5M; 100 m are meters
    text = re.sub(r"(?:([$€£¥₹] ?\d[\d.,]*) |(?<=\d))([MB])\b", r"\1 \2illion", text).casefold()
    if not any(map(str.isdigit, text)) and not re.search("hundred|thousand", text):
        text = _IN_WORDS.sub(_counted, text)
    for pattern, order in _DATES:
        text = re.sub(pattern, partial(_iso, order), text)
    for pattern, meant in _READ_AS:
        text = re.sub(pattern, meant, text)
    for aside in _ASIDES:
        rest = re.sub(aside, " ", text)
        text = rest if any(map(str.isdigit, rest)) else text
    return [_quantity(match, mark) for match in _QUANTITY.finditer(text)]


def _counted(number: re.Match[str]) -> str:
    """A number from zero to ninety-nine, in digits."""
    return str(sum(_COUNTED[word] for word in re.split("[ -]", number[0])))


def _iso(order: str, date: re.Match[str]) -> str:
    """A date as 2024-03-05; what it leaves out is 0."""
    part = dict(zip(order, date.groups(), strict=True))
    month = _MONTH_OF.get(part["m"]) or int(part["m"])
    return f" {int(part.get('y', 0)):04}-{month:02}-{int(part.get('d', 0)):02} "


def _quantity(match: re.Match[str], mark: str) -> Quantity:
    if match["date"]:
        return match["date"], False
    numbers = re.findall(_DIGITS, match["first"] + match["others"])
    read = [_number(number, mark) for number in numbers]
    value, *others = read
    if None not in read and len(others) == 1 and others[0] and match["others"][0] == "/":
        value = float(match["whole"] or 0) + value / others[0]
    elif others or value is None:
        parts = numbers
        if None not in read:
            parts = [str(number).removesuffix(".0") for number in read]
        return f"{match['sign']}{parts}{match['word']}", False
    value *= _SPELLED.get(match["word"] or "", 1)
    return -value if match["sign"] == "-" else value, match["percent"] is not None


def _number(text: str, mark: str) -> int | float | None:
    """A number in English, Indian or continental spelling; None: a list, no grouping, endless."""
    text = re.sub("[' _]", "", text)
    head, e, exponent = text.partition("e")
    mark = mark or _decimal_mark(head)
    other = "," if mark == "." else "."
    whole = rf"(?:\d*|\d{{1,3}}(?:[{other}]\d{{2,3}})*[{other}]\d{{3}})"
    if len(head) > 300 or not re.fullmatch(rf"{whole}(?:[{mark}]\d+)?", head):
        return None
    if mark not in head and not e:
        return int(head.replace(other, ""))
    return float(head.replace(other, "").replace(mark, ".") + e + exponent)


def _decimal_mark(number: str) -> str:
    """Of two marks the last; a comma before exactly three digits groups them, as do several."""
    marks = re.findall("[.,]", number)
    groups = len(set(marks)) == 1 and (
        len(marks) > 1 or re.fullmatch(r"[1-9]\d{0,2},\d{3}", number)
    )
    if groups:
        return "." if marks[0] == "," else ","
    return marks[-1] if marks else "."
