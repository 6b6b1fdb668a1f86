"""Estimators from a Python file: run only when trusted, reproducible, and every failure is one line with its place."""

import re
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from slot_rl.estimators import EstimatorNet, EstimatorShape, RowEstimator
from slot_rl.estimators.encoding import TableEncoding
from slot_rl.estimators.trusted import Reference, load_row_estimator, load_trusted, parse_reference
from slot_rl.problems import RowProblem, SlotProblem, make_problem
from slot_rl.seeding import generator_from, seeded_initialisation

ROWS_FILE = """
import torch
from torch import nn
from slot_rl.estimators import RowEstimator
from slot_rl.estimators.encoding import TableEncoding


class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(5, 4), nn.Linear(8, 1)
        self.register_buffer("offsets", torch.tensor([0, 2]))

    def forward(self, features, context):
        return self.head(self.table(features + self.offsets).flatten(1)).squeeze(1) + context[:, 0]


def build():
    encoding = TableEncoding("y", {"a": ("u", "v"), "b": ("p", "q", "r")}, {"c": ("l", "r")})
    return RowEstimator(Mine(), encoding, torch.tensor([[0], [1]]))
"""
TABLE = "c,a,b,y\nl,u,p,1\nl,v,q,2\nr,u,q,3\nr,v,r,4\n"


def written(folder: Path, text: str, function: str = "build") -> Reference:
    (folder / "mine.py").write_text(text, encoding="utf-8")
    return Reference(folder / "mine.py", function)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mine.py:build", Reference(Path("mine.py"), "build")),
        ("/a/b.c/mine.py:make_it", Reference(Path("/a/b.c/mine.py"), "make_it")),
        ("C:/models/mine.py:build", Reference(Path("C:/models/mine.py"), "build")),
        ("runs/estimator", None),
        ("runs/estimator:2", None),
        ("C:/runs", None),
    ],
)
def test_a_file_and_a_function_are_told_from_a_folder(text: str, expected: Reference | None) -> None:
    assert parse_reference(text) == expected
    assert expected is None or str(expected) == text


def test_a_folder_may_be_called_as_it_likes(tmp_path: Path) -> None:
    for name in ("folder.py", "folder.py:1"):
        (tmp_path / name).mkdir()
        assert parse_reference(tmp_path / name) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mine.py", "expected path.py:function, as in mine.py:build, got 'mine.py' without a function"),
        ("mine.py:", "expected path.py:function, got 'mine.py:', whose '' is no function's name"),
        ("mine.py:a b", "expected path.py:function, got 'mine.py:a b', whose 'a b' is no function's name"),
    ],
)
def test_a_file_without_a_function_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_reference(text)


def test_the_function_builds_the_same_every_time(tmp_path: Path) -> None:
    reference = written(tmp_path, ROWS_FILE)
    torch.manual_seed(5)
    state, paths = torch.get_rng_state(), list(sys.path)
    first = load_row_estimator(reference)
    torch.rand(3)
    second = load_row_estimator(reference)
    torch.set_rng_state(state)
    weights = first.module.state_dict()
    assert all(torch.equal(part, weights[name]) for name, part in second.module.state_dict().items())
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"] and sys.path == paths
    load_row_estimator(reference)
    assert torch.equal(torch.get_rng_state(), state)
    assert "mine" not in sys.modules


def test_the_file_knows_its_path_and_is_not_main(tmp_path: Path) -> None:
    text = "def build():\n    return __file__, __name__\nif __name__ == '__main__':\n    raise SystemExit\n"
    path, name = load_trusted(written(tmp_path, text))
    assert path == str(tmp_path / "mine.py") and name.startswith("_slot_rl_trusted_")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def build(:", "expected {}:build, line 1, to build an estimator, got SyntaxError: "),
        (
            "import nowhere_at_all",
            "expected {}:build, line 1, to build an estimator, got ModuleNotFoundError: No module",
        ),
        (
            "def build():\n    x = 1\n    raise RuntimeError('no\\n  weights')",
            "expected {}:build, line 3, to build an estimator, got RuntimeError: no weights",
        ),
        ("import sys\n\nsys.exit(3)", "expected {}:build, line 3, to build an estimator, got SystemExit: 3"),
        ("def built(): ...", "expected a function build in {}, got no such name"),
        ("build = 3", "expected a function build in {}, got int, which cannot be called"),
        ("def build(path): ...", "expected {}:build to build an estimator, got TypeError: build() missing 1 required"),
        ("def build(): return 3", "expected {}:build to return a RowEstimator, got int"),
        (
            "from slot_rl.estimators import RowEstimator\ndef build():\n    return RowEstimator(3, None)",
            "expected {}:build, line 3, to build an estimator, got TypeError: expected module of type Module, got int",
        ),
    ],
)
def test_whatever_goes_wrong_inside_is_one_line_that_says_where(text: str, message: str, tmp_path: Path) -> None:
    reference = written(tmp_path, text)
    with pytest.raises(ValueError, match=re.escape(message.format(tmp_path / "mine.py"))) as caught:
        load_row_estimator(reference)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a Python file with build\(\), got .*gone.py, which is no file"):
        load_trusted(Reference(tmp_path / "gone.py", "build"))


def test_an_interrupt_is_not_taken_for_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        load_trusted(written(tmp_path, "def build():\n    raise KeyboardInterrupt"))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((len, None, None), "expected module of type Module, got builtin_function_or_method"),
        ((nn.Identity(), {}, None), "expected encoding of type TableEncoding, got dict"),
        ((nn.Identity(), TableEncoding("y", {}, {}), [[0]]), "expected contexts of type Tensor, got list"),
    ],
)
def test_parts_of_another_type_are_refused(parts: tuple[object, ...], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        RowEstimator(*parts)  # type: ignore[arg-type]


def test_rows_are_asked_of_a_trusted_file_with_its_own_names(tmp_path: Path) -> None:
    reference = written(tmp_path, ROWS_FILE)
    table = tmp_path / "table.csv"
    table.write_text(TABLE, encoding="utf-8")
    problem = make_problem("SlotRL/Rows-v0", str(reference), table, trust=True)
    assert isinstance(problem, RowProblem) and problem.name == "SlotRL/Rows-v0"
    assert (problem.sizes, problem.context_sizes) == ((2, 3), (2,))
    assert problem.encoding is not None and list(problem.encoding.features) == ["a", "b"]
    observation = problem.evaluation_observations(2, generator_from(0))
    choice = torch.tensor([[0, 0], [1, 2]])
    assert problem.true_score(observation, choice).tolist() == [1.0, 4.0]
    module = load_row_estimator(reference).module
    assert torch.equal(problem.score(observation, choice), module(choice, observation.context).detach())


def test_our_own_network_may_come_from_a_file(tmp_path: Path) -> None:
    text = """
from slot_rl.estimators import EstimatorNet, EstimatorShape, RowEstimator
from slot_rl.estimators.encoding import TableEncoding
def build():
    net = EstimatorNet(EstimatorShape(2, 3, (4,), (2, 3)))
    return RowEstimator(net, TableEncoding("y", {"a": ("u", "v"), "b": ("p", "q", "r")}, {}))
"""
    problem = make_problem("SlotRL/Rows-v0", str(written(tmp_path, text)), trust=True)
    with seeded_initialisation(0):
        net = EstimatorNet(EstimatorShape(2, 3, (4,), (2, 3)))
    assert net.catalogue is not None
    assert torch.equal(problem.candidates(problem.sample(1, generator_from(0))), net.catalogue.detach())


VECTORS_FILE = """
from torch import nn
class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.5)
    def forward(self, vectors):
        return -self.dropout(vectors).square().sum(dim=(-1, -2))
def function():
    return lambda vectors: -vectors.square().sum(dim=(-1, -2))
"""


@pytest.mark.parametrize("function", ["Mine", "function"])
@pytest.mark.parametrize("env_id", ["SlotRL/Slots-v0", "SlotRL/SlotsLarge-v0", "SlotRL/PickValue-v0"])
def test_slot_problems_take_callables_from_a_trusted_file(env_id: str, function: str, tmp_path: Path) -> None:
    problem = make_problem(env_id, str(written(tmp_path, VECTORS_FILE, function)), trust=True)
    assert isinstance(problem, SlotProblem) and problem.has_truth and problem.name == env_id
    observation = problem.sample(3, generator_from(0))
    choice = torch.zeros(3, problem.slots, dtype=torch.long)
    expected: Tensor = -problem.gather(observation, choice).square().sum(dim=(-1, -2))
    assert torch.equal(problem.score(observation, choice), expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def build(): return 3", "expected {}:build to return a callable, got int"),
        (
            "def build(): return lambda vectors: vectors.sum()",
            "expected scores of shape (3,) from the lambda at mine.py:1 for SlotRL/PickValue-v0, given items "
            "(3, 4, 1), got torch.float32 ()",
        ),
        ("def build(): return lambda vectors: 'x'", "given items (3, 4, 1), got str"),
        (
            "def build():\n    return lambda vectors: vectors @ vectors.new_ones(7)",
            "given items (3, 4, 1), got RuntimeError at mine.py:2: ",
        ),
    ],
)
def test_what_does_not_score_vectors_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(message.format(tmp_path / "mine.py"))):
        make_problem("SlotRL/PickValue-v0", str(written(tmp_path, text)), trust=True)


@pytest.mark.parametrize("env_id", ["SlotRL/Rows-v0", "SlotRL/Slots-v0", "SlotRL/PickValue-v0"])
def test_without_trust_nothing_is_executed(env_id: str, tmp_path: Path) -> None:
    reference = written(tmp_path, f"import os; os.mkdir({str(tmp_path / 'executed')!r})")
    message = f"expected --trust (trust=True) with {reference}, which would be executed, got none"
    with pytest.raises(ValueError, match=re.escape(message)):
        make_problem(env_id, str(reference))
    assert not (tmp_path / "executed").exists()
    with pytest.raises(ValueError, match="expected a function build"):
        make_problem(env_id, str(reference), trust=True)
    assert (tmp_path / "executed").exists()


def test_a_file_that_changes_the_default_type_is_refused(tmp_path: Path) -> None:
    for body in (
        "torch.set_default_dtype(torch.float64)\ndef build():",
        "def build():\n    torch.set_default_dtype(torch.float64)",
    ):
        (tmp_path / "mine.py").write_text(f"import torch\n{body}\n    return 3\n")
        with pytest.raises(ValueError, match="to leave torch's default dtype at float32, got torch.float64"):
            load_trusted(Reference(tmp_path / "mine.py", "build"))
        assert torch.get_default_dtype() == torch.float32
