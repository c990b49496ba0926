"""Numbers of people and phones are found in every spelling; numbers of orders stay as they are."""

from __future__ import annotations

import json
import random

import pytest

from helpers import store
from helpers.redaction import find_personal_data
from helpers.redaction.national import national_numbers

NUMBERS = """
codice fiscale RSSMRA85T10A562S|numéro de sécurité sociale 2 95 10 99 126 111 93|NIR 295109912611193
Steuer-ID 36 574 261 809|Steueridentifikationsnummer: 36574261809|DNI es 54362315K|NIE X2482300W
PESEL 44051401359|BSN is 111222333|burgerservicenummer 1112.22.333|CPF 39053344705|390.533.447-05
Aadhaar: 2341 2341 2346|PAN ABCPE1234F|身份证号11010519491231002X|NINO AB123456C|AB 12 34 56 C
NHS number 943 476 5870|personnummer 880320-0016|CPR-nummer: 211062-5629|henkilötunnus 131052-308T
fødselsnummer 15108695088|85.07.30-033.28|AHV 756.9217.0769.85|rodné číslo 710319/2745
CNP 1630615123457|"socialSecurityNumber": "536904399"|ni number ab123456c
Sozialversicherungsnummer 65 170839 J 003|{"taxNumber": "36574261809"}|СНИЛС 11223344595
ЕГН 8032056031|OIB 33392005961|AMKA 01013099997|isikukood 36805280109|T.C. Kimlik No: 17291716060
주민등록번호 971013-9019902|SIN: 123-456-782|TFN is 123 456 782|CURP BOXW310820HNERXN09
RUT 76086428-5|RUT 12.531.909-2|CUIT 20-05536168-2
PPS number 6433435F|マイナンバー 6214 9832 0257|cédula 171430710-3
บัตรประชาชน 3100600445635|תעודת זהות 39337423|NIF 501 964 843|ИНН 123456789047|SSN 536904399
social security 536 90 4399|tax id 36574261809|"nationalId": "44051401359"|pesel=44051401359&x=1
de89370400440532013000|mara＠example.com|mara\u200b@example.com|４１１１ １１１１ １１１１ １１１１
٤١١١ ١١١١ ١١١١ ١١١١|4111\u00a01111\u00a01111\u00a01111|4111–1111–1111–1111
"""
PHONES = """
mobile: 07700 900123|phone 4155552671|(415) 555-2671|"phone": "4155552671"|Tel. 030 1234567
Tél : 06 12 34 56 78|415-555-2671|06 12 34 56 78|Mob.: 98765 43210|手机 13800138000
電話 090-1234-5678
전화 010-1234-5678|Телефон 8 (912) 345-67-89|whatsapp 11 91234-5678|Handy 0171-1234567
móvil 612 345 678
"""
ORDERS = """
order 39053344705 arrived broken|order 8032056031|ticket 44051401359 is open|SKU AB123456C in stock
Bestellung 36574261809 fehlt|tracking 234123412346|order 0301 2345 679 is late|invoice 123-456-782
12 345 678 903 rows|EAN 7501234567890|0.12345678 0.9876543 12345678.12|epoch 1764366000123456
2026-11-29 12:30:45.123456|12345678 of 87654321 rows|step 1000000/2000000|ISBN 978-3-16-148410-0
01/02/2024 10:30 02/03/2024|52.520008, 13.404954|order 640823-3233 late|build 20240101-0042
phone model SM-G991B|text 12345678 characters|GPU 0: 14321MiB / 81920MiB|phones: 1,234,567 sold
Artikelnummer 0301 2345 679|Kopfhörer Artikel 0301-2345-679|headphones model 20241129
cell 7654321 ns|ordine 0301 2345 679|zamówienie 0301 2345 679|Mo-Fr 08.00-18.00|run 20260114-1
order 241129-14-0042|X1234567-L|room 101 12 2024|"GET / HTTP/1.1" 200 45 1024
shape 512 64 1024|Summe 12.345.678-5
Tax ID 12-3456789 (company)|Ref. 756.1234.5678.97|PO AB 12 34 56 C|part 12345678-A|FV 240315/2024
tracking 334942201404287866|I got 334942201404287866 of you
"""
# what shops are written, with any number: names of numbers are parts of these words, or mean others
ORDINARY = """
Die Bestellung {} wird nicht geliefert.|Bitte die MwSt. auf Rechnung {} ausweisen.|rund {} Stück
Die Anschlussnummer lautet {}.|Auf dem Marktplatz gekauft, Vorgang {}|Die Ergebnisse zu {} fehlen
I'm still waiting for order {}.|This is the third time I ask about order {}.|runs/{}/report.html
We run a small shop, order {} is late.|run {} finished|My name is Jennifer, order {} never came.
The uniform (order {}) is too small.|See the manifest for shipment {}.|Ruth here: parcel {} is lost
Booked at Holiday Inn, confirmation {}.|className {} not found|uid {} gid 0|{{"uid": "{}"}}
my number is {}, where is my parcel|apps {} installed|Vehicle identification number {} please
Mi pedido {} sigue sin llegar.|La ruta {} no está disponible|Quiero disfrutar del pedido {}
Zamówienie {} nie dotarło do nas na czas.|As encomendas nas lojas, pedido {}|Contribuinte: fatura {}
De afmetingen van artikel {} kloppen niet.|Ik wil me afmelden, bestelling {}|Brutto {} EUR
Длинный заказ {} не пришёл|Инновация: заказ {}|Gekocht via Marktplaats, kenmerk {}
SSN of whoever placed order {}|tickets, {}, "ssn": null
"""


def of(lines: str) -> list[str]:
    return lines.strip().replace("\n", "|").split("|")


@pytest.mark.parametrize("text", of(NUMBERS))
def test_line_04_what_a_state_a_bank_or_a_keyboard_elsewhere_makes_is_personal_too(text):
    for holder in (text, f"Hello, {text}, thanks", f"x\n{text}\ny"):
        assert find_personal_data(holder), holder
        hidden = store.without_secrets(holder)
        assert hidden != holder and not any(part in hidden for part in text.split() if "1" in part)


def test_line_04_a_wrong_check_digit_is_no_number_of_a_person():
    for text in ("PESEL 44051401358", "CPF 39053344706", "390.533.447-06", "Steuer-ID 36574261808"):
        assert {span.kind for span in find_personal_data(text)} <= {"PHONE_NUMBER"}
        assert store.without_secrets(text) == text


def test_line_04_a_phone_is_one_without_its_prefix_and_an_order_is_none():
    for text in of(PHONES):
        for holder in (text, f"I said {text}, please", json.dumps({"a": text}, ensure_ascii=False)):
            assert "[phone]" in store.without_secrets(holder), holder
    for text in of(ORDERS):
        assert store.without_secrets(text) == text
        assert {s.kind for s in find_personal_data(text)} <= {"PHONE_NUMBER"}, text
    values = {"phone": "4155552671", "Tel": 4155552671, "pesel": "44051401359", "n": 4155552671}
    hidden = {"phone": "[phone]", "Tel": "[phone]", "pesel": "[id number]", "n": 4155552671}
    assert store.clean(values) == hidden


def test_line_04_no_ordinary_sentence_makes_a_number_a_persons():
    digits = random.Random(8)
    for sentence in of(ORDINARY):
        for length in (8, 9, 10, 11, 12, 13, 16):
            for _ in range(24):
                number = str(digits.randrange(10 ** (length - 1), 10**length))
                text = sentence.format(number)
                assert not [*national_numbers(text)], text


def test_line_04_counts_stay_numbers_and_keys_are_hidden_whole_under_any_name(monkeypatch):
    counts = {"headphones_sold": 123456789, "phone_calls": 1234567890, "cell_ns": 123456789}
    counts |= {"rows": {"phone": 1234567}, "run_id": 20260114, "uid": 234123412346}
    assert store.clean(counts) == counts
    monkeypatch.setenv("DB_PASSWORD", "hunter2@corp.acme.com!x9Q")
    monkeypatch.setenv("API_TOKEN", "abc/4111111111111111/xyzSECRET")
    secrets = """curl -u bob@corp.com:s3cretpw1 https://x.io|https://u:se@cret.com!Q@host.io/x
cookie: user=bob@corp.com; sid=abcdef0123456789abcd|t abc/4111111111111111/xyzSECRET failed
https://h.io/?token=ab@corp.com~Q9z|redis-cli -a pa55@corp.com#1|login hunter2@corp.acme.com!x9Q
machine a.b login bob@corp.com password hunter2secret|DB_PASSWORD=x4111111111111111-q9"""
    for text in of(secrets):
        assert store.clean({"error": text}) == {"error": store.without_secrets(text)}, text
