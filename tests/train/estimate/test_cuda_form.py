"""Autocast and fused attention on the meta device."""

import torch
from torch.nn import functional

from skyframe.train.estimate.cuda_form import CudaForm
from skyframe.train.estimate.ledger import Ledger


def test_attention_is_fused_and_keeps_no_scores():
    q = torch.ones(2, 4, 64, 16, device="meta", requires_grad=True)
    with Ledger([q]) as ledger, CudaForm():
        out = functional.scaled_dot_product_attention(q, q, q)
    assert ledger.flops == 2 * (2 * 2 * 4 * 64 * 64 * 16), "scores and their sum over values"
    assert out.nbytes <= ledger.held <= out.nbytes + 2 * 4 * 64 * 4 + 64, "with a number per row; scores would be 64"


def test_autocast_lowers_products_widens_norms_and_copies_a_weight_once():
    x = torch.ones(3, 8, device="meta")
    w = torch.nn.Parameter(torch.ones(8, 8, device="meta"))
    with torch.autocast("cpu", torch.bfloat16), CudaForm() as form:
        low = functional.linear(functional.linear(x, w), w)
        wide = functional.layer_norm(low, (8,))
        with torch.autocast("cpu", enabled=False):
            island = functional.linear(x, w)
    assert (low.dtype, wide.dtype, island.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    assert [copy.nbytes for _, copy in form.copies.values()] == [8 * 8 * 2]
