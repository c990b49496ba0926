from __future__ import annotations

import os
import signal
import sys
import time

import psutil
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch.nn import functional

from helpers.models import FrozenLayer
from helpers.models.kernels import products
from helpers.processes import limits
from helpers.train.kernels import beside
from helpers.train.kernels import loss as loss_kernel
from helpers.train.kernels.attention import Attention, causal_mask
from helpers.train.kernels.beside import Beside, deal, processes_for
from helpers.train.kernels.lean import AdaptedLinear, Adapter, dropout_mask, slim
from helpers.train.kernels.loss import micro_batches, shared_prefix, supervised_loss, trainable
from helpers.train.trainer import LengthGrouped

SHAPE = dict(
    vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4
)
SHAPE |= dict(num_key_value_heads=2, head_dim=8)
KINDS = {"Llama": {}, "Qwen2": {}, "Gemma": {}, "Gemma2": {"sliding_window": 12}}


def tiny(kind: str, targets=("q_proj", "v_proj")):
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SHAPE, **KINDS[kind])
    model = get_peft_model(
        getattr(transformers, f"{kind}ForCausalLM")(config),
        LoraConfig(
            r=4,
            lora_dropout=0.0,
            target_modules=targets if isinstance(targets, str) else list(targets),
            task_type="CAUSAL_LM",
        ),
    )
    for (
        name,
        weight,
    ) in model.named_parameters():  # B starts at zero, and A would then have no gradient
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return model


def batch():
    """Three rows of different lengths with a common beginning of 14 tokens, padded on the right."""
    torch.manual_seed(1)
    start = torch.randint(3, 97, (14,))
    ids, labels = torch.zeros(3, 30, dtype=torch.long), torch.full((3, 30), -100)
    for row, length in enumerate((30, 22, 25)):
        ids[row, :14], ids[row, 14:length] = start, torch.randint(3, 97, (length - 14,))
        labels[row, length - 5 : length] = ids[row, length - 5 : length]
    mask = torch.tensor([[n < k for n in range(30)] for k in (30, 22, 25)]).long()
    return ids, labels, mask


@pytest.fixture(autouse=True)
def short_prefixes_count(monkeypatch):
    monkeypatch.setattr(loss_kernel, "SAVED_TOKENS", 1)


def gradients(model) -> torch.Tensor:
    found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    return found


@pytest.mark.parametrize("share_prefix", [False, True], ids=["head", "prefix"])
@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_are_those_of_the_stock_model(kind, share_prefix):
    model = tiny(kind)
    ids, labels, mask = batch()
    assert shared_prefix(ids, labels) == 14
    stock = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    stock.backward()
    expected = gradients(model)
    ours = (
        supervised_loss(model.get_base_model(), ids, labels, share_prefix) / (labels != -100).sum()
    )
    ours.backward()
    found = gradients(model)
    assert abs((ours - stock).item()) <= 1e-5 * stock.item()
    assert float((found - expected).norm() / expected.norm()) <= 1e-4


@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], "all-linear"], ids=["attention", "all"])
@pytest.mark.parametrize("share_prefix", [False, True], ids=["head", "prefix"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("onednn", [False, True], ids=["mkl", "onednn"])
def test_lean_layers_and_micro_batches_give_the_gradients_of_the_stock_model(
    kind, share_prefix, targets, onednn, monkeypatch
):
    monkeypatch.setattr(products, "prefers_onednn", lambda: onednn)
    model = tiny(kind, targets)
    ids, labels, mask = batch()
    stock = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    stock.backward()
    expected = gradients(model)
    undo = slim(model)
    ours = (
        supervised_loss(model.get_base_model(), ids, labels, share_prefix, most_tokens=20)
        / (labels != -100).sum()
    )
    (ours * 0.5).backward()
    found = gradients(model) / 0.5
    with torch.no_grad():
        told = (
            supervised_loss(model.get_base_model(), ids, labels, share_prefix, most_tokens=20)
            / (labels != -100).sum()
        )
    assert (
        abs((ours - stock).item()) <= 1e-5 * stock.item()
        and abs((told - ours).item()) <= 1e-6 * stock.item()
    )
    assert float((found - expected).norm() / expected.norm()) <= 1e-4
    undo()
    assert "forward" not in model.get_base_model().model.layers[0].self_attn.q_proj.__dict__


@pytest.mark.parametrize("kind", ["Llama", "Qwen2"])
def test_a_batch_as_one_row_gives_the_gradients_of_the_stock_model(kind, monkeypatch):
    monkeypatch.setattr(loss_kernel, "_is_short", lambda *batch: True)
    model = tiny(kind)
    ids, labels, mask = batch()
    stock = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    stock.backward()
    expected = gradients(model)
    slim(model)
    lengths = []
    model.get_base_model().model.layers[0].register_forward_pre_hook(
        lambda module, inputs: lengths.append(inputs[0].shape[:2])
    )
    ours = supervised_loss(model.get_base_model(), ids, labels, True, 256) / (labels != -100).sum()
    ours.backward()
    assert lengths == [(1, 14 + 16 + 8 + 11)]
    assert abs((ours - stock).item()) <= 1e-5 * stock.item()
    assert float((gradients(model) - expected).norm() / expected.norm()) <= 1e-4


def test_a_batch_is_one_row_where_it_is_few_tokens_and_attention_is_full():
    ids, labels, _ = batch()
    llama, gemma = (in_bf16(tiny(kind)).get_base_model() for kind in ("Llama", "Gemma2"))
    assert loss_kernel._is_short(llama, ids, labels, 14)
    assert not loss_kernel._is_short(llama, ids.repeat(8, 1), labels.repeat(8, 1), 14)
    assert not loss_kernel._is_short(llama, ids[:1], labels[:1], 0)  # nothing would be saved
    assert not loss_kernel._is_short(gemma, ids, labels, 14)
    assert not loss_kernel._is_short(tiny("Llama").get_base_model(), ids, labels, 14)


def in_bf16(model):
    """Its frozen weights in bf16, its adapter still in fp32."""
    for weight in model.parameters():
        if not weight.requires_grad:
            weight.data = weight.data.bfloat16()
    return model


@pytest.fixture
def share():
    """Makes processes that share a model's batches."""
    if sys.platform != "linux" or torch.cuda.is_available():
        pytest.skip("batches are shared on Linux, and by training programs without CUDA")
    made = []

    def share(model, others: int) -> Beside:
        made.append(Beside(model.get_base_model(), others, most_tokens=20))
        return made[-1]

    yield share
    for one in made:
        one.close()


@pytest.mark.parametrize(
    ("others", "targets", "one_row"),
    [(2, ["q_proj", "v_proj"], 256), (1, "all-linear", 256), (1, "all-linear", 0)],
    ids=["three", "two", "two-after-a-prefix"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_in_bf16_the_gradient_points_where_that_of_fp32_does_and_stays_fp32(
    kind, others, targets, one_row, share, monkeypatch
):
    monkeypatch.setattr(loss_kernel, "ONE_ROW", one_row)
    model = tiny(kind, targets)
    ids, labels, mask = batch()
    model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
    expected = gradients(model)
    slim(in_bf16(model))
    shared = share(model, others)
    found = []
    before = torch.get_num_threads()
    for _ in range(2):
        (shared.loss(ids, labels, True) / (labels != -100).sum()).backward()
        found.append(gradients(model))
    assert torch.get_num_threads() == before
    assert torch.equal(*found), "whichever process ends first"
    assert found[0].dtype == torch.float32
    assert float(functional.cosine_similarity(found[0], expected, dim=0)) >= 0.999
    with torch.no_grad():
        told = shared.loss(ids, labels, True)
    alone = supervised_loss(model.get_base_model(), ids, labels, False)
    assert abs(float(told - alone)) <= 5e-3 * float(alone)


def test_processes_that_share_a_batch_draw_the_same_dropout_for_the_same_seed(share):
    model = in_bf16(tiny("Llama"))
    for module in model.modules():
        if hasattr(module, "lora_dropout"):
            module.lora_dropout["default"] = torch.nn.Dropout(0.3)
    slim(model.train())
    ids, labels, _ = batch()
    shared = share(model, 1)
    found = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        shared.loss(ids, labels, True).backward()
        found.append(gradients(model))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_weights_that_are_put_elsewhere_are_those_that_other_processes_read(share):
    model = in_bf16(tiny("Llama"))
    slim(model)
    ids, labels, _ = batch()
    shared = share(model, 1)
    for weight in trainable(model.get_base_model()):
        weight.data = torch.randn_like(weight)
    with torch.no_grad():
        told = shared.loss(ids, labels, True)
        alone = supervised_loss(model.get_base_model(), ids, labels, False)
    assert abs(float(told - alone)) <= 5e-3 * float(alone)


def test_what_a_process_beside_this_one_runs_into_is_raised_here(share):
    model = in_bf16(tiny("Llama"))
    slim(model)
    ids, labels, _ = batch()
    shared = share(model, 2)
    shared.loss(ids[:1], labels[:1], True)  # one row for three processes
    beyond = ids.clone()
    beyond[2, 16] = beyond[1, 16] = 10**6
    with pytest.raises((RuntimeError, IndexError), match="index"):
        shared.loss(beyond, labels, True)


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGKILL, MemoryError), (signal.SIGUSR1, RuntimeError)]
)
def test_a_process_that_is_killed_is_a_lack_of_memory_and_no_other_end_of_it(
    number, kind, share, monkeypatch, tmp_path
):
    begin, waits = Beside._begin, tmp_path / "waits"

    def begin_one_by_one(self):
        if waits.exists():
            time.sleep(1)
        waits.touch()
        begin(self)
        waits.write_text(str(os.getpid()))

    monkeypatch.setattr(Beside, "_begin", begin_one_by_one)
    model = in_bf16(tiny("Llama"))
    slim(model)
    ids, labels, _ = batch()
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # a caller may have one
    try:
        shared = share(model, 2)
    finally:
        signal.signal(signal.SIGTERM, before)
    others = [psutil.Process(process.pid) for process in shared.processes]
    while not waits.exists() or not waits.read_text():
        time.sleep(0.01)
    time.sleep(0.2)  # it waits for work then, which none else can; the other has not begun
    psutil.Process(int(waits.read_text())).send_signal(number)
    with pytest.raises(kind, match=f"-{number:d}"):
        shared.loss(ids, labels, True)
    assert not psutil.wait_procs(others, 60)[1]


def test_a_refused_fork_is_an_os_error_and_leaves_no_process(share, monkeypatch):
    model = in_bf16(tiny("Llama"))
    fork, forked = os.fork, []

    def refused():
        if forked:
            raise BlockingIOError("no more processes")
        pid = fork()
        if pid:
            forked.append(psutil.Process(pid))
        return pid

    monkeypatch.setattr(os, "fork", refused)
    with pytest.raises(OSError, match="no more"):
        share(model, 2)
    assert forked and not psutil.wait_procs(forked, 60)[1]


def test_processes_are_as_many_as_cores_rows_and_memory_allow_or_as_before_a_resume(
    monkeypatch, tmp_path
):
    model = in_bf16(tiny("Llama")).get_base_model()
    files = {"cpu.max": "150000 100000", "memory.max": "max"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(beside, "limits", lambda name: limits(name, tmp_path))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(sys, "platform", "linux")
    assert [processes_for(model, 16), processes_for(model, 1)] == [2, 1]
    assert [processes_for(model, 16, 5), processes_for(model, 4, 5)] == [5, 4]
    (tmp_path / "cpu.max").write_text("max 100000")
    (tmp_path / "memory.max").write_text(str(3 * beside.ROOM))
    assert processes_for(model, 16) <= 3
    monkeypatch.setattr(sys, "platform", "darwin")
    assert processes_for(model, 16, 5) == 1
    assert limits("missing", tmp_path) == []


@pytest.mark.parametrize("lengths", [[7] * 16, [40, 9, 0, 12, 12, 3, 25], [5], [0, 0], [100, 1]])
@pytest.mark.parametrize("count", [1, 2, 3, 20])
def test_every_labelled_row_is_in_one_share_and_shares_differ_by_one_row(lengths, count):
    shares = deal(lengths, count)
    rows = sorted(row for share in shares for row in share)
    assert len(shares) == count and rows == [row for row, length in enumerate(lengths) if length]
    sums = [sum(lengths[row] for row in share) for share in shares]
    assert max(sums) - min(sums) <= max(lengths)


@pytest.mark.parametrize(
    "lengths", [[7] * 16, [40, 9, 0, 12, 12, 3, 25], [5], [0, 0], [100, 1], [3, 50, 50, 50]]
)
@pytest.mark.parametrize("most", [0, 20, 56, 10_000])
def test_every_labelled_row_is_in_one_micro_batch_and_the_first_is_the_largest(lengths, most):
    batches = micro_batches(lengths, most)
    rows = sorted(row for batch in batches for row in batch)
    assert rows == [row for row, length in enumerate(lengths) if length]
    sizes = [len(batch) * max(lengths[row] for row in batch) for batch in batches]
    assert all(size < sizes[0] for size in sizes[1:]) or len(batches[0]) == 1
    if most:
        assert all(
            size <= most or len(batch) == 1 for size, batch in zip(sizes, batches, strict=True)
        )
    else:
        assert len(batches) <= 1


def test_an_adapted_layer_with_dropout_is_the_layer_with_its_mask_written_out():
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(*shape) for shape in ((3, 7, 11), (5, 11), (5,)))
    a, b, gradient = torch.randn(2, 11), torch.randn(5, 2), torch.randn(3, 7, 5)
    asked = [x.requires_grad_(), a.requires_grad_(), b.requires_grad_()]
    layer = torch.nn.Linear(11, 5).requires_grad_(False)
    layer.weight.data, layer.bias.data = weight, bias
    torch.manual_seed(1)
    ours = AdaptedLinear.apply(x, FrozenLayer(layer), a, b, Adapter(2.0, 0.3))
    torch.manual_seed(1)
    kept = ~dropout_mask(x.reshape(21, 11), 0.3).view(3, 7, 11)
    plain = functional.linear(x, weight, bias) + 2.0 * (x * kept / 0.7 @ a.t() @ b.t())
    assert 0 < int(kept.sum()) < kept.numel() and torch.allclose(ours, plain, atol=1e-5)
    for one, other in zip(
        torch.autograd.grad(ours, asked, gradient),
        torch.autograd.grad(plain, asked, gradient),
        strict=True,
    ):
        assert torch.allclose(one, other, atol=1e-4)


def test_attention_of_short_rows_is_torchs_own_after_a_prefix_too():
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, n, length, 8) for n, length in ((4, 5), (2, 9), (2, 9)))
    sources = [tensor.requires_grad_() for tensor in (query, key, value)]
    mask = torch.ones(5, 9, dtype=torch.bool).tril(4)
    expected = functional.scaled_dot_product_attention(
        *sources, attn_mask=mask, scale=0.3, enable_gqa=True
    )
    ours = Attention.apply(*(tensor.bfloat16() for tensor in sources), causal_mask(2, 5, 9), 0.3)
    gradient = torch.randn_like(ours)
    for one, other in zip(
        [ours.float(), *torch.autograd.grad(ours, sources, gradient)],
        [expected, *torch.autograd.grad(expected, sources, gradient.float())],
        strict=True,
    ):
        assert float((one - other).norm() / other.norm()) <= 0.02


def test_undone_layers_have_the_very_weights_that_were_laid_out():
    model = in_bf16(tiny("Llama", "all-linear"))
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    undo = slim(model)
    assert model.get_base_model().config._attn_implementation == "short_rows"
    undo()
    assert all(torch.equal(before[name], weight) for name, weight in model.named_parameters())
    assert model.get_base_model().config._attn_implementation == "sdpa"


def test_dropout_loses_the_asked_share():
    torch.manual_seed(0)
    lost = dropout_mask(torch.ones(499, 201), 0.05)  # not a multiple of four values
    assert lost.shape == (499, 201) and abs(float(lost.float().mean()) - 0.05) <= 0.004
    torch.manual_seed(0)
    assert torch.equal(lost, dropout_mask(torch.ones(499, 201), 0.05)), (
        "a resumed training draws the same"
    )


def test_the_shared_prefix_ends_before_the_first_position_that_predicts_a_label():
    ids = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 8, 9]])
    labels = torch.tensor([[-100, -100, -100, 8, 9]] * 2)
    assert shared_prefix(ids, labels) == 2
    assert shared_prefix(ids[:1], labels[:1]) == 0


def test_row_order_is_a_function_of_seed_and_epoch_and_batches_hold_similar_lengths():
    lengths = [(n * 37) % 90 + 10 for n in range(100)]
    sampler = LengthGrouped(lengths, 8, seed=3)
    first = list(sampler)
    assert sorted(first) == list(range(100)) and first == list(LengthGrouped(lengths, 8, seed=3))
    sampler.set_epoch(1)
    assert list(sampler) != first
    spread = [
        max(b) - min(b) for b in ([lengths[i] for i in first[n : n + 8]] for n in range(0, 96, 8))
    ]
    assert max(spread) <= 12
