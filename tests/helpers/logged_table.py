"""A problem of table rows that is small enough to enumerate, and its rows as a log: 3 contexts, 4 * 4 * 3 rows each."""

from pathlib import Path

import torch
from torch import Tensor

from slot_rl.agents.sb3 import LearningAgent
from slot_rl.estimators import EstimatorNet, EstimatorShape
from slot_rl.estimators.encoding import TableEncoding
from slot_rl.problems import Observation, RowProblem
from slot_rl.search import enumerate_landscape
from slot_rl.seeding import seeded_initialisation

ENCODING = TableEncoding("y", {"a": tuple("klmn"), "b": tuple("opqr"), "c": tuple("stu")}, {"where": tuple("xyz")})
ROWS = 3 * 4 * 4 * 3


def row_problem() -> RowProblem:
    """A network of random weights, whose context decides which row is best."""
    with seeded_initialisation(5):
        net = EstimatorNet(EstimatorShape(3, 4, (32, 32), (4, 4, 3), (3,)))
    assert net.catalogue is not None
    with torch.no_grad():
        for table in (net.catalogue, *net.context_tables.parameters()):
            table.mul_(6)
    return RowProblem(net, torch.arange(3).unsqueeze(1), encoding=ENCODING)


def all_rows() -> tuple[Tensor, Tensor]:
    """Every context ``(rows, 1)`` with every choice ``(rows, 3)``."""
    rows = torch.cartesian_prod(torch.arange(3), torch.arange(4), torch.arange(4), torch.arange(3))
    return rows[:, :1], rows[:, 1:]


def write_log(path: Path) -> Path:
    """Writes every row once, with columns out of order and one that means nothing."""
    contexts, choices = all_rows()
    names = [*ENCODING.features.values()]
    lines = ["c,where,note,a,b"]
    for where, (a, b, c) in zip(contexts[:, 0].tolist(), choices.tolist(), strict=True):
        lines.append(f"{names[2][c]},{ENCODING.contexts['where'][where]},,{names[0][a]},{names[1][b]}")
    path.write_text("\n".join(lines) + "\n")
    return path


def optimality(agent: LearningAgent) -> float:
    """0 for random choices, 1 for the best row of every context."""
    problem = row_problem()
    observation = Observation(context=torch.arange(3).unsqueeze(1))
    landscape = enumerate_landscape(problem, observation, problem.score)
    score = problem.score(observation, agent.choose(observation))
    random = landscape.mean.mean()
    return float((score.mean() - random) / (landscape.best.mean() - random))
