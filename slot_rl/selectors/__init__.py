"""Floor 0: ways through a discrete choice, as pure mathematics on tensors."""

from slot_rl.selectors.base import Estimate, Objective, Selector
from slot_rl.selectors.categorical import masked_logits
from slot_rl.selectors.exact import Exact
from slot_rl.selectors.gapped import Gapped
from slot_rl.selectors.gumbel import Gumbel
from slot_rl.selectors.gumbel_rao import GumbelRao
from slot_rl.selectors.intermediate_draws import BernoulliDraw, GaussianDraw, PoissonDraw
from slot_rl.selectors.intermediate_loss import IntermediateLoss
from slot_rl.selectors.local_expectation import LocalExpectation
from slot_rl.selectors.rebar import Rebar
from slot_rl.selectors.registry import NAMES, SELECTORS, make
from slot_rl.selectors.reinforce import Reinforce
from slot_rl.selectors.reinmax import ReinMax
from slot_rl.selectors.rloo import RLOO
from slot_rl.selectors.screened_expectation import ScreenedExpectation
from slot_rl.selectors.softmax import Softmax
from slot_rl.selectors.straight_through import StraightThrough

__all__ = [
    "BernoulliDraw",
    "GaussianDraw",
    "NAMES",
    "PoissonDraw",
    "RLOO",
    "SELECTORS",
    "Estimate",
    "Exact",
    "Gapped",
    "Gumbel",
    "GumbelRao",
    "IntermediateLoss",
    "LocalExpectation",
    "Objective",
    "Rebar",
    "ReinMax",
    "Reinforce",
    "ScreenedExpectation",
    "Selector",
    "Softmax",
    "StraightThrough",
    "make",
    "masked_logits",
]
