import pytest
import torch

from helpers.models.kernels import products


@pytest.mark.parametrize("onednn", [False, True], ids=["mkl", "onednn"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(3, 7, 11), (1, 11), (0, 11)])
def test_a_frozen_layer_gives_torchs_own_result_and_gradient(shape, bias, onednn, monkeypatch):
    monkeypatch.setattr(products, "prefers_onednn", lambda: onednn)
    torch.manual_seed(0)
    layer = torch.nn.Linear(11, 5, bias=bias).requires_grad_(False)
    x, gradient = torch.randn(shape, requires_grad=True), torch.randn(*shape[:-1], 5)
    plain, ours = layer(x), products.frozen_linear(layer)(x)
    assert torch.allclose(ours, plain, atol=1e-5)
    found, expected = (torch.autograd.grad(out, x, gradient)[0] for out in (ours, plain))
    assert torch.allclose(found, expected, atol=1e-5)


def test_other_precisions_are_left_to_torch(monkeypatch):
    monkeypatch.setattr(products, "prefers_onednn", lambda: True)
    x, weight = torch.randn(4, 11).double(), torch.randn(5, 11).double()
    assert torch.equal(products.product(x, weight), x @ weight.t())
