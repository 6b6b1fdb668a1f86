"""The benchmark of the policy: operations are counted as by hand, and the command prints shares that can be true."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.policy_speed import TRAINED, PolicyBenchmark, benchmark_policy, product_flops


def test_products_are_counted_as_by_hand() -> None:
    left, right = torch.ones(4, 5), torch.ones(5, 6, requires_grad=True)
    assert product_flops(lambda: left @ right) == 2 * 4 * 5 * 6
    assert product_flops(lambda: (left @ right).sum().backward()) == 2 * 2 * 4 * 5 * 6
    assert product_flops(lambda: left + 1) == 0


def test_attention_is_counted_as_its_products() -> None:
    queries, items = torch.ones(2, 1, 3, 8, requires_grad=True), torch.ones(2, 1, 7, 8)
    product = 2 * 2 * 3 * 7 * 8
    assert product_flops(lambda: scaled_dot_product_attention(queries, items, items)) == 2 * product
    # Backwards the weights are computed again, and there are four gradients' products.
    forward_and_backward = product_flops(lambda: scaled_dot_product_attention(queries, items, items).sum().backward())
    assert forward_and_backward == (2 + 5) * product


@pytest.mark.slow
def test_the_share_of_products_is_a_share(capsys: pytest.CaptureFixture[str]) -> None:
    shares = benchmark_policy(PolicyBenchmark(batch=64, repeats=5, seconds=0.1))
    assert set(shares) == set(TRAINED) and all(0 < share < 1 for share in shares.values())
    assert "share of products" in capsys.readouterr().out
