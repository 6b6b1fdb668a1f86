"""Campaigns whose fits take no time: small networks and few steps."""

import pytest

from slot_rl.estimators import product_gp
from slot_rl.estimators.mixed_members import MemberFit
from slot_rl.estimators.net_ensemble import EnsembleFit
from slot_rl.search import next_batch

QUICK_MEMBERS = MemberFit(nets=2, draws=3, hidden=(16,), fit=EnsembleFit(20, 20, batch_size=16, swap_linearity=0.0))


def fit_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(product_gp, "FIT_STEPS", 10)
    monkeypatch.setattr(next_batch, "MemberFit", lambda: QUICK_MEMBERS)
