"""Served = trained: what goes wrong on the way to an engine is found and named."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from serve_toys import TASK, publish_dataset, register, task_folder

from helpers import models, store
from helpers.models import local
from helpers.records import Asking, Finding, Message, Parity, WorkbookError
from helpers.registry import FineTuneLifecycleManager
from helpers.serve.engines import Loaded
from helpers.serve.local import load
from helpers.serve.parity import _company, _sameness, check_before_promotion, check_parity, compare
from helpers.serve.served import open_version
from helpers.tasks import load_task


def write_adapter(version, scale=1.0, base="tiny"):
    """A LoRA adapter with random weights."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(7)
    network = models.load_network(models.base_path(base))
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], r=4)
    tuned = get_peft_model(network, config)
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=1.0)
            weight.data *= scale
    folder = store.home() / f"models/{version}/adapter"
    tuned.save_pretrained(str(folder))
    return folder


@pytest.fixture
def version(home):
    """v1, trained for real (a random adapter), in staging, with validation rows."""
    return tuned_version("v1")


def tuned_version(name, scale=1.0, base="tiny", tokens=6, to=""):
    task = load_task(str(task_folder()))
    fingerprints = models.template_fingerprints(base, task)
    asking = Asking(max_new_tokens=tokens).for_rung("fine_tuned", name)

    def make_adapter():
        write_adapter(name, scale, base)

    facts = {"fingerprints": fingerprints, "asking": asking, "base_model": base}
    manager = register(name, to, make_adapter, **facts)
    version = manager.get_version(name)
    store.Run(version.run_id).path(Parity.FILE).unlink()  # nobody has asked it yet
    publish_dataset(store.Run(version.run_id))
    return version


def embedded_version(name):
    """The embedded model with a small random adapter, in production."""
    return tuned_version(name, 0.01, "embedded", 40, "production")


class Engine(Loaded):
    """Answers through `change`, which is what goes wrong at an engine."""

    engine = "toy"

    def __init__(self, served, change):
        self.model = models.load_model("tiny", adapter=served.adapter)
        self.model.network  # noqa: B018 - loaded once, before many threads ask
        self.change = change

    def answer(self, chat, limit, logprobs=None):
        return self.change(self.model, chat, limit)

    def close(self):
        pass


def findings_of(version, change, rows=6):
    served = open_version(version, {})
    parity = compare(served, served.validation_rows(rows), Engine(served, change))
    return parity, {f.name: f.verdict for f in parity.findings}


def right(model, chat, limit):
    return model.answer([chat], limit)[0]


def test_the_same_model_is_the_same_and_its_latency_is_measured(version):
    parity, verdicts = findings_of(version, right)
    assert parity.equal == parity.n == 6
    assert set(verdicts.values()) == {"pass"} and parity.latency_p95.value > 0


def test_what_only_company_in_a_batch_rounds_otherwise_is_the_same_model(version):
    seen = []

    def first_time_otherwise(model, chat, limit):
        answer = right(model, chat, limit)
        seen.append(str(chat))
        otherwise = answer.model_copy(update={"text": f"{answer.text} otherwise"})
        return otherwise if seen.count(str(chat)) == 1 else answer

    parity, verdicts = findings_of(version, first_time_otherwise)
    assert parity.equal == parity.n == 6 and verdicts["same_answers"] == "pass"


def test_another_template_is_named(version):
    def other_template(model, chat, limit):
        chat = [*chat[:-1], Message(role="user", content=f"### {chat[-1].content}")]
        return model.answer([chat], limit)[0]

    _, verdicts = findings_of(version, other_template)
    assert verdicts["template"] == "fail" and verdicts["truncation"] == "pass"


def test_an_adapter_without_effect_at_the_engine_is_named(version):
    base = models.load_model("tiny")
    base.network  # noqa: B018
    _, verdicts = findings_of(version, lambda model, chat, limit: base.answer([chat], limit)[0])
    assert verdicts["adapter_effect"] == "fail" and verdicts["template"] == "pass"


def test_an_adapter_that_learnt_nothing_is_named(home):
    _, verdicts = findings_of(tuned_version("v2", scale=0.0), right)
    assert verdicts["adapter_effect"] == "fail" and verdicts["same_answers"] == "pass"


def test_answers_that_are_cut_off_are_named(version):
    def cut(model, chat, limit):
        answer = model.answer([chat], limit)[0]
        return answer.model_copy(update={"text": answer.text[:5], "finish": "length"})

    def whole(model, chat, limit):
        return model.answer([chat], limit)[0].model_copy(update={"finish": "stop"})

    served = open_version(version, {})
    with pytest.MonkeyPatch.context() as patch:
        tuned = Engine(served, whole).model
        real = type(tuned).answer
        stopped = lambda self, chats, n: [  # noqa: E731
            a.model_copy(update={"finish": "stop"}) for a in real(self, chats, n)
        ]
        patch.setattr(type(tuned), "answer", stopped)
        _, verdicts = findings_of(version, cut)
    assert verdicts["truncation"] == "fail"


def test_other_weights_at_the_engine_are_named(version):
    other = models.load_model("tiny", adapter=write_adapter("other", scale=3.0))
    other.network  # noqa: B018
    parity, verdicts = findings_of(version, lambda m, chat, n: other.answer([chat], n)[0])
    assert verdicts["template"] == verdicts["truncation"] == "pass"
    assert verdicts["same_answers"] == "fail"
    assert "other weights (a swapped adapter?)" in parity.findings[-1].evidence


def test_another_stop_at_the_engine_is_named(version):
    def half(model, chat, limit):
        answer = right(model, chat, limit)
        return answer.model_copy(update={"text": answer.text[:9], "finish": "stop"})

    parity, verdicts = findings_of(version, half)
    assert verdicts["same_answers"] == "fail" and "another stop" in parity.findings[-1].evidence


@pytest.mark.parametrize("goes_wrong", ["fails", "mixes up", "says nothing of it"])
def test_what_goes_wrong_in_company_alone_is_not_asked_away(version, goes_wrong):
    seen = []
    served = open_version(version, {})
    chats = [served.chat(example.prompt) for example in served.validation_rows(12)]

    def in_company(model, chat, limit):
        seen.append(str(chat))
        answer = right(model, chat, limit)
        if len(seen) <= 6 or seen.count(str(chat)) > 1:
            return answer
        if goes_wrong == "fails":
            return models.failed("503 from the engine")
        if goes_wrong == "mixes up":
            return right(model, chats[(chats.index(chat) + 1) % len(chats)], limit)
        return answer.model_copy(update={"text": "!" * 40})

    _, verdicts = findings_of(version, in_company, 12)
    assert verdicts["answered" if goes_wrong == "fails" else "company"] == "fail"


def test_long_answers_that_company_has_part_early_are_mixed_up_with_none(version):
    served = open_version(version, {})
    examples = served.validation_rows(12)
    alone = [f"Dear guest {n}, room {n} " + "is ready. " * 30 for n in range(12)]
    early = [f"{text[:20]} will do." * 9 for text in alone]

    def verdict(together):
        pair = ([answer_of(text) for text in texts] for texts in (together, alone))
        return _company(served, examples, *pair).verdict

    assert verdict(early) == "pass"
    assert verdict(alone[::-1]) == verdict(["!!!"] * 12) == "fail"


def answer_of(text):
    return models.Answer(text=text, tokens_in=1, tokens_out=1, latency_ms=1.0, finish="stop")


def test_a_format_that_is_kept_says_nothing_of_answers_that_nobody_scores(version):
    served = open_version(version, {})
    task = served.task.model_copy(update={"accuracy_from": "judge"})
    answers = [answer_of(text) for text in ("one", "two")]
    examples = [e.model_copy(update={"group": f"g{n}"}) for n in range(400)
                for e in served.validation_rows(1)]  # fmt: skip
    pairs = (examples, answers[:1] * 400, answers[1:] * 400)
    assert _sameness(replace(served, task=task), *pairs, True).verdict == "fail"


def test_our_own_model_is_loaded_once(version, monkeypatch):
    loaded = []
    real = local.load_network
    monkeypatch.setattr(local, "load_network", lambda *args: loaded.append(args) or real(*args))
    assert check_parity("v1", "local", 6).equal == 6
    assert [adapter is not None for _, adapter, _ in loaded] == [True, False]  # and its base


def test_another_quantisation_at_the_engine_is_named(version):
    import torch

    def rounded(model, chat, limit):
        with torch.no_grad():
            for weight in model.network.parameters():
                step = weight.abs().max() / 127  # as eight bits hold it
                weight.copy_((weight / step).round() * step)
        return model.answer([chat], limit)[0]

    parity, verdicts = findings_of(version, rounded)
    assert verdicts["template"] == verdicts["adapter_effect"] == "pass"
    assert verdicts["same_answers"] != "pass"
    assert "another quantisation" in parity.findings[-1].evidence


def test_05_asks_the_engine_only_where_nothing_else_stands_in_the_way(version):
    manager = FineTuneLifecycleManager(TASK)
    rules = manager.validate_for_production("v1")
    other = Finding(name="evaluation_age", verdict="fail", evidence="old")
    assert check_before_promotion("v1", [*rules, other], "local") == []
    assert not manager.promote("v1", "production").promoted
    [trouble] = check_before_promotion("v1", rules, "http://127.0.0.1:9/v1")
    assert trouble.verdict == "undecided" and "127.0.0.1:9" in trouble.evidence
    findings = check_before_promotion("v1", rules, "local", rows=6)
    assert {finding.verdict for finding in findings} == {"pass"}
    assert manager.promote("v1", "production").promoted
    assert check_before_promotion("v1", manager.validate_for_production("v1"), "local") == []


def test_a_swapped_adapter_file_is_refused_before_it_is_asked(version):
    write_adapter("v1", scale=2.0)
    with pytest.raises(WorkbookError, match=r"sha256 .* is not the one that was registered"):
        check_parity("v1", "local")


def test_the_check_by_command_writes_what_the_gate_reads(version, capsys):
    from helpers.serve.__main__ import main

    command = ["--check", "v1", "--engine", "local", "--rows", "6"]
    assert main(command) == 0
    assert capsys.readouterr().out == "v1 through local: pass; 6 of 6 answers are equal\n"
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["n"] == told["equal"] == 6 and told["engine"] == "local"
    assert store.Run(version.run_id).load(Parity).version == "v1"


def test_the_gate_takes_the_word_of_the_check(version):
    def rule():
        findings = FineTuneLifecycleManager(TASK).validate_for_production("v1")
        [finding] = [f for f in findings if f.name == "served_as_trained"]
        return finding.verdict, finding.evidence

    assert rule()[0] == "undecided" and "workbook serve --check v1" in rule()[1]
    base = models.load_model("tiny")
    base.network  # noqa: B018
    parity, _ = findings_of(version, lambda model, chat, limit: base.answer([chat], limit)[0])
    store.Run(version.run_id).save(parity)
    assert rule()[0] == "fail" and "adapter_effect" in rule()[1]
    store.Run(version.run_id).save(parity.model_copy(update={"artifact_sha256": "other"}))
    assert rule()[0] == "undecided"  # what was checked is not what would serve


def test_requests_that_wait_together_get_the_answers_that_they_get_alone(version):
    from concurrent.futures import ThreadPoolExecutor

    served = open_version(version, {})
    loaded = load(served)
    chats = [
        served.chat([Message(role="user", content=f"row {n}" * (1 + n % 3))]) for n in range(12)
    ]
    limits = [4 + n % 2 for n in range(12)]
    pairs = list(zip(chats, limits, strict=True))
    alone = [loaded.answer(*pair).text for pair in pairs]
    with ThreadPoolExecutor(12) as pool:
        together = list(
            pool.map(lambda pair: loaded.answer(*pair).text, zip(chats, limits, strict=True))
        )
        too_long = pool.submit(
            loaded.answer, served.chat([Message(role="user", content="x " * 9000)]), 4
        )
        fine = pool.submit(loaded.answer, chats[0], 4)
        assert fine.result().text == alone[0]
        with pytest.raises(WorkbookError, match="exceeds the"):
            too_long.result()
    loaded.close()
    assert together == alone
