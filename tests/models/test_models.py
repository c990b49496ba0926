"""Which model a name means, where text may go, what a request costs."""

from __future__ import annotations

import copy
import logging
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from helpers import models
from helpers.models import prices, tokens
from helpers.models.api import ApiModel
from helpers.models.local import LocalModel
from helpers.records import Message, WorkbookError
from helpers.tasks import load_task
from helpers.tasks.task import Task


def task(**changed: Any) -> Task:
    return load_task("support_triage").model_copy(update=changed)


def answer(**changed: Any) -> models.Answer:
    return models.Answer(
        **(
            {"text": "", "tokens_in": 1000, "tokens_out": 100, "latency_ms": 1800, "finish": "stop"}
            | changed
        )
    )


def test_text_leaves_the_machine_only_when_the_task_allows_it(tiny: Path) -> None:
    remote = ApiModel("gpt", "https://api.example.com/v1")
    with pytest.raises(WorkbookError, match="data_may_leave") as refusal:
        models.check_may_send(task(data_may_leave=False), remote)
    assert refusal.value.exit_code == 2
    models.check_may_send(task(data_may_leave=True), remote)
    models.check_may_send(task(data_may_leave=False), ApiModel("gpt", "http://127.0.0.1:8000/v1"))
    models.check_may_send(task(data_may_leave=False), models.load_model("tiny"))


def test_a_base_model_is_shipped_or_a_folder_or_a_hub_id(tiny: Path, tmp_path: Path) -> None:
    assert models.base_path("tiny") == models.base_path(str(tiny)) == str(tiny)
    assert models.base_path("owner/some-model") == "owner/some-model"
    for wrong in ("embeded", str(tmp_path), "./missing/folder", ""):
        with pytest.raises(WorkbookError, match="neither embedded"):
            models.base_path(wrong)


def test_everything_stays_offline_unless_the_base_model_is_a_hub_id(tiny: Path) -> None:
    for local in ("embedded", "tiny", str(tiny)):
        assert models.offline_env(local)["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in models.offline_env("owner/some-model")
    assert models.offline_env("owner/some-model")["HF_HUB_DISABLE_TELEMETRY"] == "1"


def test_a_hub_model_that_cannot_be_fetched_is_an_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WorkbookError, match="nobody/nothing"):
        models.load_model("nobody/nothing").count_tokens([Message(role="user", content="x")])


def test_a_models_spec_loads_it_again(tiny: Path) -> None:
    for spec in ("tiny", str(tiny), "gpt at https://api.example.com/v1", "a at b at practice"):
        model = models.load_model(spec)
        assert models.load_model(model.spec).fingerprint == model.fingerprint
    endpoint = models.load_model("a at b at practice")
    assert (endpoint.name, endpoint.base_url, endpoint.is_loopback) == ("a at b", "practice", True)


def test_loading_is_lazy(tiny: Path) -> None:
    model = models.load_model("tiny")
    assert isinstance(model, LocalModel)
    assert "network" not in vars(model) and "tokenizer" not in vars(model)


def test_template_fingerprints_follow_the_prompt_and_nothing_else(tiny: Path) -> None:
    short = models.template_fingerprints("tiny", task())
    full = models.template_fingerprints("tiny", task(), prompt_style="full")
    assert set(short) == {"template", "tokenizer", "system_prompt"}
    assert short["system_prompt"] != full["system_prompt"]
    assert (short["template"], short["tokenizer"]) == (full["template"], full["tokenizer"])
    backend = models.tokenizer_of("tiny").backend_tokenizer
    backend.enable_truncation(max_length=5)  # as a call does that cuts its texts
    backend.enable_padding()
    assert models.template_fingerprints("tiny", task()) == short
    backend.no_truncation()
    backend.no_padding()


def test_tokens_are_counted_by_the_models_own_tokenizer(tiny: Path) -> None:
    assert tokens.count_text("tiny", ["Hello world", "12345"]) == [2, 5]
    assert tokens.count_text("tiny", []) == []
    chat = [Message(role="system", content="Be brief."), Message(role="user", content="Hi")]
    assert tokens.count_chats("tiny", [chat]) == [models.load_model("tiny").count_tokens(chat)]


def test_a_template_that_drops_instructions_or_questions_is_refused(tiny: Path) -> None:
    tokenizer = copy.deepcopy(models.tokenizer_of("tiny"))
    tokenizer.chat_template = (
        "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"
    )
    user = Message(role="user", content="hi")
    assert models.render_text(tokenizer, [user]) == "hi"
    for role in ("system", "developer"):
        chat = [Message(role=role, content="Shout."), user]
        with pytest.raises(WorkbookError, match="leaves out what the system says"):
            models.render_tokens(tokenizer, chat)
    tokenizer = copy.deepcopy(tokenizer)  # made for lists of parts, as some of vision models are
    tokenizer.chat_template = (
        "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"
    )
    with pytest.raises(WorkbookError, match="leaves out what the user says"):
        models.render_tokens(tokenizer, [user])


def test_a_template_is_probed_as_it_is_told_and_again_when_it_has_changed(tiny: Path) -> None:
    tokenizer = copy.deepcopy(models.tokenizer_of("tiny"))
    whole = "{% for m in messages %}{{ m.content }}{% endfor %}"
    chat = [Message(role="system", content="Shout."), Message(role="user", content="hi")]
    for condition, told in (("style == 'plain'", {"style": "plain"}), ("tools", None)):
        tokenizer.chat_template = f"{{% if {condition} %}}{whole}{{% endif %}}"
        with pytest.raises(WorkbookError, match="leaves out what the system says"):
            models.render_text(tokenizer, chat)
        tools = [] if told else [{"type": "function", "function": {"name": "Shout"}}]
        first = chat[0].model_copy(update={"tools": tools or None})
        assert models.render_text(tokenizer, [first, chat[1]], template_args=told) == "Shout.hi"
    tokenizer.chat_template = whole
    assert models.render_text(tokenizer, chat) == "Shout.hi"


def test_to_count_a_text_that_is_too_long_puts_no_red_box_under_a_cell(caplog):
    tokenizer = tokens.tokenizer_of("tiny")
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        longest = tokenizer.model_max_length
        assert tokens.count_text("tiny", ["hub " * (longest + 9)])[0] > longest
        assert caplog.records == []
    finally:
        logger.removeHandler(caplog.handler)


def test_own_hardware_costs_by_the_second_and_endpoints_by_the_token(tiny: Path) -> None:
    priced = {
        "as_of": "2026-11-01",
        "hardware_usd_per_hour": 2.0,
        "models": {"gpt": {"input": 3, "cached": 1, "output": 10}},
    }
    local = models.load_model("tiny")
    remote = ApiModel("gpt-2026-01-01", "https://api.example.com/v1")
    assert prices.request_cost(task(prices=priced), local, answer(), 0.9) == pytest.approx(
        0.9 * 2 / 3600
    )
    by_token = prices.request_cost(task(prices=priced), remote, answer(tokens_cached=400), 0.9)
    assert by_token == pytest.approx((600 * 3 + 400 * 1 + 100 * 10) / 1e6)
    own_server = ApiModel("mine", "http://127.0.0.1:8000/v1")
    assert prices.request_cost(task(prices=priced), own_server, answer(), 1.8) == pytest.approx(
        1.8 * 2 / 3600
    )


def test_an_unknown_price_is_none_never_zero(tiny: Path) -> None:
    remote = ApiModel("other", "https://api.example.com/v1")
    assert (
        prices.request_cost(task(prices={"hardware_usd_per_hour": 2.0}), remote, answer(), 1.0)
        is None
    )
    assert prices.request_cost(task(prices={}), models.load_model("tiny"), answer(), 1.0) is None
    free = {"models": {"other": {"input": 1, "output": 1}}}
    assert prices.request_cost(task(prices=free), remote, answer(tokens_in=0), 1.0) is None


def test_a_paid_request_reserves_its_worst_case_and_settles_what_was_counted(tiny: Path) -> None:
    priced = task(prices={"models": {"gpt": {"input": 3, "output": 10}}})
    here = ApiModel("gpt", "http://127.0.0.1:8000/v1")
    chat = [Message(role="user", content="x" * 30)]
    worst = models.worst_cost(priced, here, chat, 40)
    assert worst == pytest.approx((here.count_tokens(chat) * 3 + 40 * 10) / 1e6)
    counted = (1000 * 3 + 100 * 10) / 1e6
    assert models.real_cost(priced, here, answer(), worst) == pytest.approx(counted)
    assert models.real_cost(priced, here, answer(tokens_in=0), worst) == worst
    failed = answer(tokens_in=0, tokens_out=0, finish="error")
    assert models.real_cost(priced, here, failed, worst) == 0.0
    with pytest.raises(WorkbookError, match=r"prices\.models has no entry for other"):
        models.worst_cost(priced, ApiModel("other", "https://api.example.com/v1"), chat, 40)


def test_paid_is_what_is_elsewhere_or_has_a_price(tiny: Path) -> None:
    priced = task(prices={"models": {"gpt": {"input": 3, "output": 10}, "tiny": {"input": 1}}})
    assert models.is_paid(priced, ApiModel("other", "https://api.example.com/v1"))
    assert models.is_paid(priced, ApiModel("gpt", "http://127.0.0.1:8000/v1"))
    assert not models.is_paid(priced, ApiModel("other", "http://127.0.0.1:8000/v1"))
    assert not models.is_paid(priced, models.load_model("tiny"))


def test_old_or_undated_prices_are_warned_about() -> None:
    assert prices.price_warnings(task(prices={"as_of": "2026-11-01"}), date(2026, 11, 20)) == []
    assert (
        "121 days old"
        in prices.price_warnings(task(prices={"as_of": date(2026, 7, 3)}), date(2026, 11, 1))[0]
    )
    assert "not a date" in prices.price_warnings(task(prices={}))[0]
    assert "not a date" in prices.price_warnings(task(prices={"as_of": "soon"}))[0]
