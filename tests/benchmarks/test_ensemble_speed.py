"""The benchmark of ensembles: members multiply the products, and the command compares them in one run."""

import pytest

from benchmarks.ensemble_speed import EnsembleBenchmark, _calls, benchmark_ensemble
from benchmarks.policy_speed import product_flops


def test_five_members_are_five_times_the_products() -> None:
    one, five = _calls(1), _calls(5)
    for name in one:
        assert product_flops(five[name]) == 5 * product_flops(one[name])
    # A row passes 64 x 128, 128 x 128 and 128 numbers.
    assert product_flops(one["128 rows, scores"]) == 2 * 128 * (64 * 128 + 128 * 128 + 128)


@pytest.mark.slow
def test_a_batched_call_costs_less_than_its_members(capsys: pytest.CaptureFixture[str]) -> None:
    ratios = benchmark_ensemble(EnsembleBenchmark(repeats=5))
    assert ratios["1 rows, scores"] < 2.5 and ratios["1 rows, slopes"] < 2.5
    assert "of products" in capsys.readouterr().out


def test_a_single_member_is_refused() -> None:
    with pytest.raises(ValueError, match="expected members >= 2, got 1"):
        EnsembleBenchmark(members=1)
