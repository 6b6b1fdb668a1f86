"""Softened modules: one-hot rows and indices have equal scores, gradients are slopes along rows, refusals are clear."""

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from slot_rl.estimators import soften
from slot_rl.estimators.freezing import frozen
from slot_rl.estimators.soft_index import SoftIndex
from slot_rl.estimators.soften import NotSoftenable, Softened, check_softened
from slot_rl.seeding import generator_from, seeded_initialisation

FEATURES, CATEGORIES, DIM = 4, 6, 8


class Scorer(nn.Module):
    """A module whose look-up is a function, ``read(self, index)``, of shape ``(batch, features, dim)`` or flatter."""

    def __init__(self, read: Callable[[Any, Tensor], Tensor], width: int = FEATURES * DIM, **parts: nn.Module) -> None:
        super().__init__()
        self.read = read
        self.register_buffer("offsets", torch.arange(FEATURES) * CATEGORIES)
        for name, part in parts.items():
            self.add_module(name, part)
        self.head = nn.Sequential(nn.Linear(width, 16), nn.Tanh(), nn.Linear(16, 1))

    @property
    def dtype(self) -> torch.dtype:
        return next(self.head.parameters()).dtype

    def forward(self, index: Tensor) -> Tensor:
        score: Tensor = self.head(self.read(self, index).flatten(1))
        return score.squeeze(-1)


class Nested(nn.Module):
    """An embedding inside a submodule of a submodule."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Embedding(CATEGORIES, DIM), nn.LayerNorm(DIM))

    def forward(self, index: Tensor) -> Tensor:
        read: Tensor = self.inner(index)
        return read


def table(size: int = CATEGORIES, **options: Any) -> nn.Embedding:
    return nn.Embedding(size, DIM, **options)


def columns(self: Any, index: Tensor) -> Tensor:
    return torch.cat([part(index[:, i]) for i, part in enumerate(self.tables)], dim=-1)


def named_columns(self: Any, index: Tensor) -> Tensor:
    return torch.stack([self.tables[f"f{i}"](column) for i, column in enumerate(index.unbind(1))], dim=1)


def with_class_token(self: Any, index: Tensor) -> Tensor:
    token = torch.full((len(index), 1), CATEGORIES, dtype=torch.long)
    out: Tensor = self.gru(self.table(torch.cat([token, index], dim=1)))[0]
    return out[:, -1]


def factorisation(self: Any, index: Tensor) -> Tensor:
    vectors = self.table(index + index.new_tensor(range(FEATURES)).unsqueeze(0) * CATEGORIES)
    pairs: Tensor = vectors.sum(dim=1).square() - vectors.square().sum(dim=1)
    return pairs


WIDE = FEATURES * CATEGORIES
LAYOUTS: dict[str, Callable[[], Scorer]] = {
    "a table per feature": lambda: Scorer(columns, tables=nn.ModuleList(table() for _ in range(FEATURES))),
    "tables by name": lambda: Scorer(named_columns, tables=nn.ModuleDict({f"f{i}": table() for i in range(FEATURES)})),
    "one table for all": lambda: Scorer(lambda self, index: self.table(index), table=table()),
    "one table, shifted": lambda: Scorer(lambda self, index: self.table(index + self.offsets), table=table(WIDE)),
    "shifted from the left": lambda: Scorer(lambda self, index: self.table(self.offsets + index), table=table(WIDE)),
    "shifted down": lambda: Scorer(lambda self, index: self.table((index + 3).long() - 2), table=table(CATEGORIES + 1)),
    "padding_idx": lambda: Scorer(lambda self, index: self.table(index), table=table(padding_idx=0)),
    "max_norm": lambda: Scorer(lambda self, index: self.table(index), table=table(max_norm=1.0)),
    "nested": lambda: Scorer(lambda self, index: self.nested(index), nested=nn.Sequential(Nested())),
    "bag, sum": lambda: Scorer(
        lambda self, index: self.bag(index + self.offsets), DIM, bag=nn.EmbeddingBag(WIDE, DIM, mode="sum")
    ),
    "bag, mean": lambda: Scorer(lambda self, index: self.bag(index), DIM, bag=nn.EmbeddingBag(CATEGORIES, DIM)),
    "bag, max": lambda: Scorer(
        lambda self, index: self.bag(index), DIM, bag=nn.EmbeddingBag(CATEGORIES, DIM, mode="max")
    ),
    "bag, sum, padding": lambda: Scorer(
        lambda self, index: self.bag(index), DIM, bag=nn.EmbeddingBag(CATEGORIES, DIM, mode="sum", padding_idx=-1)
    ),
    "one-hot": lambda: Scorer(lambda self, index: F.one_hot(index, CATEGORIES).to(self.dtype), FEATURES * CATEGORIES),
    "one-hot times a matrix": lambda: Scorer(
        lambda self, index: F.one_hot(index, CATEGORIES).to(self.dtype) @ self.linear.weight,
        linear=nn.Linear(DIM, CATEGORIES),
    ),
    "one-hot, shifted, with more classes": lambda: Scorer(
        lambda self, index: F.one_hot(index + 2, CATEGORIES + 3).to(self.dtype), FEATURES * (CATEGORIES + 3)
    ),
    "weight[index]": lambda: Scorer(lambda self, index: self.table.weight[index], table=table()),
    "weight[index,]": lambda: Scorer(lambda self, index: self.table.weight[(index,)], table=table()),
    "index_select": lambda: Scorer(
        lambda self, index: self.table.weight.index_select(0, index.reshape(-1)).view(*index.shape, -1), table=table()
    ),
    "class token": lambda: Scorer(
        with_class_token, DIM, table=table(CATEGORIES + 1), gru=nn.GRU(DIM, DIM, batch_first=True)
    ),
    "factorisation machine": lambda: Scorer(factorisation, DIM, table=table(WIDE)),
    "by keyword": lambda: Scorer(
        lambda self, index: F.one_hot(
            torch.unsqueeze(dim=1, input=torch.stack(tensors=[index, index], dim=1)), num_classes=CATEGORIES
        ).to(self.dtype),
        2 * FEATURES * CATEGORIES,
    ),
    "turned about": lambda: Scorer(
        lambda self, index: self.table(index.t().contiguous().flip(0).chunk(2)[0].T.expand(len(index), 2)),
        2 * DIM,
        table=table(),
    ),
}


def built(layout: str) -> Scorer:
    with seeded_initialisation(0):
        return LAYOUTS[layout]()


def one_hot(index: Tensor, categories: int = CATEGORIES) -> Tensor:
    return F.one_hot(index, categories).float()


def random_index(*leading: int, seed: int = 0) -> Tensor:
    return torch.randint(CATEGORIES, (*leading, FEATURES), generator=generator_from(seed))


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 3), max_size=2), st.integers(1, 9), st.integers(0, 10_000), st.booleans())
def test_one_hot_rows_have_exactly_the_score_of_their_indices(
    layout: str, leading: list[int], batch: int, seed: int, with_gradient: bool
) -> None:
    module = built(layout)
    softened = soften(module)
    index = random_index(*leading, batch, seed=seed)
    hard, soft = softened(index), softened(one_hot(index).requires_grad_(with_gradient))
    assert hard.shape == soft.shape == (*leading, batch) and hard.dtype == torch.float32
    assert torch.equal(hard, soft)
    assert torch.equal(hard, frozen(module)(index.flatten(0, -2)).view(*leading, batch))


def test_a_transformer_layers_scores_are_equal_up_to_rounding() -> None:
    with seeded_initialisation(0):
        layer = nn.TransformerEncoderLayer(DIM, 2, 16, batch_first=True)
        softened = soften(Scorer(lambda self, index: self.layer(self.table(index)), table=table(), layer=layer))
    index = random_index(64)
    with torch.no_grad():
        hard = softened(index)
        assert torch.equal(softened(one_hot(index)), hard)
    torch.testing.assert_close(softened(one_hot(index).requires_grad_()).detach(), hard, atol=1e-6, rtol=0)


def test_scores_have_the_precision_of_the_rows() -> None:
    index = random_index(8)
    for inside in (torch.float64, torch.bfloat16):
        softened = soften(built("one table for all").to(inside))
        for outside in (torch.float32, torch.float64):
            score = softened(one_hot(index).to(outside))
            assert score.dtype == outside
            torch.testing.assert_close(score.float(), softened(index), atol=0, rtol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_gradient_is_the_finite_difference_along_a_row(layout: str) -> None:
    softened = soften(built(layout).double())
    rows = torch.softmax(torch.randn(3, FEATURES, CATEGORIES, dtype=torch.float64, generator=generator_from(1)), dim=-1)
    rows.requires_grad_()
    (gradient,) = torch.autograd.grad(softened(rows).sum(), rows)
    direction = torch.randn(rows.shape, dtype=torch.float64, generator=generator_from(2))
    step = 1e-6
    with torch.no_grad():
        difference = (softened(rows + step * direction) - softened(rows - step * direction)).sum() / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), difference, atol=1e-7, rtol=1e-5)
    assert bool(gradient.flatten(1).abs().amax(dim=1).gt(0).all())


def test_the_gradient_of_a_linear_score_is_the_table() -> None:
    # Tables (1, 2, 3) and (10, 20, 30), score 2 a + 3 b: slopes 2, 4, 6 and 30, 60, 90 wherever the rows are.
    first, second, linear = nn.Embedding(3, 1), nn.Embedding(3, 1), nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[1.0], [2.0], [3.0]]))
        second.weight.copy_(torch.tensor([[10.0], [20.0], [30.0]]))
        linear.weight.copy_(torch.tensor([[2.0, 3.0]]))
    module = Scorer(lambda self, index: torch.cat([self.a(index[:, 0]), self.b(index[:, 1])], 1), a=first, b=second)
    module.head = nn.Sequential(linear)
    rows = torch.tensor([[[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]]], requires_grad=True)
    score = soften(module)(rows)
    assert score.tolist() == [2 * 1.75 + 3 * 20]
    score.sum().backward()
    assert rows.grad is not None and rows.grad.tolist() == [[[2.0, 4.0, 6.0], [30.0, 60.0, 90.0]]]


def test_the_callers_module_is_unchanged_and_the_copy_frozen() -> None:
    module = built("max_norm").train()
    module.head[0].eval()
    flags = {name: part.training for name, part in module.named_modules()}
    weights = copy.deepcopy(module.state_dict())
    softened = soften(module)
    softened(one_hot(random_index(4)).requires_grad_()).sum().backward()
    softened(random_index(4))
    assert {name: part.training for name, part in module.named_modules()} == flags
    assert all(part.requires_grad and part.grad is None for part in module.parameters())
    assert all(torch.equal(part, weights[name]) for name, part in module.state_dict().items())
    assert softened.train() is softened and not any(part.training for part in softened.modules())
    assert not any(part.requires_grad for part in softened.parameters())
    before = softened(random_index(4))
    with torch.no_grad():
        for part in module.parameters():
            part.fill_(7.0)
    assert torch.equal(softened(random_index(4)), before)
    assert soften(softened) is softened


def test_padding_adds_nothing_to_narrow_tables() -> None:
    narrow, wide = table(2), table(CATEGORIES)
    module = Scorer(columns, 2 * DIM, tables=nn.ModuleList([narrow, wide]))
    softened = soften(module)
    index = torch.tensor([[1, 5], [0, 2]])
    assert torch.equal(softened(one_hot(index)), softened(index))
    rows = one_hot(index)
    rows[:, 0] = one_hot(torch.tensor(4))
    expected = module.head(torch.cat([torch.zeros(2, DIM), wide(index[:, 1])], dim=1)).squeeze(-1)
    assert torch.equal(softened(rows), expected)


class InContext(nn.Module):
    """Joins the indices of context and features and looks all up in one table."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = table(WIDE), nn.Linear((FEATURES + 2) * DIM, 1)

    def to_latent(self, index: Tensor, context: Tensor) -> Tensor:
        latent: Tensor = self.table(torch.cat([context + 10, index], dim=1)).flatten(1)
        return latent

    def forward(self, index: Tensor, context: Tensor) -> Tensor:
        score: Tensor = self.head(self.to_latent(index, context))
        return score


def test_a_context_is_shared_by_all_leading_dimensions() -> None:
    with seeded_initialisation(0):
        softened = soften(InContext())
    index, context = random_index(3, 5), torch.randint(4, (5, 2), generator=generator_from(1))
    hard = softened(index, context)
    assert hard.shape == (3, 5)
    assert torch.equal(softened(one_hot(index).requires_grad_(), context), hard)
    for lead in range(3):
        torch.testing.assert_close(softened(index[lead], context), hard[lead], atol=1e-6, rtol=0)
    assert float((softened(index, context) - softened(index, context.flip(0))).abs().max()) > 0


def test_the_latent_is_the_modules_own_at_indices_and_at_rows() -> None:
    with seeded_initialisation(0):
        module = InContext()
    softened = soften(module)
    index, context = random_index(3, 5), torch.randint(4, (5, 2), generator=generator_from(1))
    latent = softened.to_latent(one_hot(index).requires_grad_(), context)
    assert latent.shape == (3, 5, (FEATURES + 2) * DIM) and latent.requires_grad
    assert torch.equal(latent, softened.to_latent(index, context))
    assert torch.equal(latent[1], module.to_latent(index[1], context))


def test_a_module_without_latent_says_so() -> None:
    with pytest.raises(TypeError, match="expected an estimator with to_latent, got Scorer without one"):
        soften(built("one-hot")).to_latent(random_index(2))


class Layer(nn.Module):
    """A submodule that does something to the index and then embeds it."""

    def __init__(self, do: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.do, self.table = do, table(WIDE)

    def forward(self, index: Tensor) -> Tensor:
        read: Tensor = self.table(self.do(index))
        return read


REFUSED: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "mul": (lambda index: index * 2, "got mul in layer"),
    "remainder": (lambda index: index % 3, "got remainder in layer"),
    "comparison": (lambda index: (index != 0).long(), "got ne in layer"),
    "equality": (lambda index: (index == 0).long(), "got __eq__ in layer"),
    "float": (lambda index: index.float(), "got float in layer"),
    "to float": (lambda index: index.to(torch.float32), "got to, which makes them torch.float32 on cpu in layer"),
    "two of them": (lambda index: index + index, "got add other than of an integer constant in layer"),
    "a float constant": (lambda index: index + 0.5, "got add other than of an integer constant in layer"),
    "a mask": (lambda index: index + torch.ones(FEATURES, dtype=torch.bool), "got add other than of an integer"),
    "taken from a constant": (lambda index: 5 - index, "got __rsub__ in layer"),
    "taken from a tensor": (lambda index: torch.full((FEATURES,), 5) - index, "got sub other than of an integer"),
    "scaled sum": (lambda index: torch.add(index, 1, alpha=2), "got add with alpha in layer"),
    "in place": (lambda index: index.add_(1), "got add_ in layer"),
    "sum": (lambda index: index.sum(dim=1, keepdim=True), "got sum in layer"),
    "maximum": (lambda index: index if index.max() < 99 else index, "got max in layer"),
    "item": (lambda index: torch.full_like(index, index[0, 0].item()), "got item in layer"),
    "list": (lambda index: torch.tensor(index.tolist()), "got tolist in layer"),
    "numpy": (lambda index: torch.from_numpy(index.numpy()), "got numpy in layer"),
    "truth": (lambda index: index if index[0, 0] else index + 1, "got __bool__ in layer"),
    "assignment": (lambda index: index.__setitem__((slice(None), 0), 0), "got __setitem__ in layer"),
    "one by another": (lambda index: index[index], "got __getitem__ of them by one another in layer"),
    "another tensor's columns": (lambda index: torch.ones(9, 9)[:, index], "got a tensor indexed by them and more in"),
    "gather": (lambda index: torch.ones(9, 9).gather(1, index), "got gather in layer"),
    "index_select": (lambda index: torch.ones(9, 9).index_select(1, index[0]), "got index_select other than along"),
    "joined to floats": (
        lambda index: torch.cat([index, torch.ones(2, 1)], 1),
        "got cat of them with numbers that are",
    ),
    "one-hot of what occurs": (lambda index: F.one_hot(index), "got F.one_hot without num_classes, which counts"),
    "as a table": (lambda index: F.embedding(torch.zeros(1, dtype=torch.long), index), "got an embedding whose table"),
    "bag of one dimension": (
        lambda index: F.embedding_bag(index.flatten(), torch.ones(9, 9), torch.arange(len(index)) * FEATURES),
        "got an EmbeddingBag with offsets or one-dimensional input in layer",
    ),
    "mean of a padded bag": (
        lambda index: F.embedding_bag(index, torch.ones(9, 9), padding_idx=0),
        "got an EmbeddingBag of mode 'mean' with padding_idx, which counts the indices that are not padding in layer",
    ),
}


@pytest.mark.parametrize(("do", "message"), REFUSED.values(), ids=REFUSED)
def test_what_needs_an_indexs_number_is_refused_with_the_layer(do: Callable[[Tensor], Any], message: str) -> None:
    module = Scorer(lambda self, index: self.body(index), body=nn.Sequential(nn.Identity(), Layer(do)))
    with pytest.raises(NotSoftenable, match=re.escape(message)) as caught:
        soften(module)(one_hot(random_index(2)))
    assert isinstance(caught.value, TypeError)
    assert str(caught.value).startswith("expected the features to go into nn.Embedding as they come (selected, ")
    assert str(caught.value).endswith("'body.1' (Layer)")


def test_what_the_module_itself_does_is_named_by_its_class() -> None:
    with pytest.raises(TypeError, match="got mul in layer 'Scorer'$"):
        soften(Scorer(lambda self, index: self.table(index * 2), table=table(WIDE)))(one_hot(random_index(2)))


def test_bags_with_offsets_are_named_where_they_are_called() -> None:
    module = Scorer(
        lambda self, index: self.bag(index.flatten(), torch.arange(len(index)) * FEATURES),
        DIM,
        bag=nn.EmbeddingBag(CATEGORIES, DIM),
    )
    softened = soften(module)
    assert softened(random_index(3)).shape == (3,)
    with pytest.raises(
        TypeError, match=r"EmbeddingBag with offsets or one-dimensional input in layer 'bag' \(Embeddin"
    ):
        softened(one_hot(random_index(3)))


def test_a_module_that_never_looks_its_input_up_is_refused() -> None:
    module = Scorer(lambda self, index: torch.zeros(len(index), DIM), DIM)
    with pytest.raises(TypeError, match=r"expected Scorer to look its input up in nn.Embedding, got no look-up"):
        soften(module)(one_hot(random_index(2)))


def test_a_module_that_stops_the_gradient_is_refused() -> None:
    softened = soften(Scorer(lambda self, index: self.table(index).detach(), table=table()))
    rows = one_hot(random_index(2))
    assert softened(rows).shape == (2,)
    with pytest.raises(TypeError, match="expected Scorer to pass a gradient to its input, got an answer without one"):
        softened(rows.requires_grad_())
    with torch.no_grad():
        assert softened(rows).shape == (2,)


def test_reading_a_soft_index_as_plain_data_fails() -> None:
    rows = SoftIndex.of(one_hot(random_index(2)))
    with torch._C.DisableTorchFunctionSubclass(), pytest.raises(IndexError):
        F.embedding(rows, torch.ones(CATEGORIES, DIM))


def test_a_soft_index_shows_what_it_is() -> None:
    index = SoftIndex.of(torch.rand(2, 3, 5))
    assert f"{index[:, 1]}" == repr(index[:, 1]) == "SoftIndex(shape=(2,), categories=5)"
    assert isinstance(index, Tensor) and index.dtype == torch.long and index.shape == (2, 3) and len(index) == 2


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (lambda read: read, ValueError, f"expected scores of shape (6,) or (6, 1), got (6, {FEATURES}, {DIM})"),
        (lambda read: read.sum(), ValueError, "expected scores of shape (6,) or (6, 1), got ()"),
        (lambda read: read.sum(dim=(1, 2)).long(), TypeError, "expected a float tensor from Answer, got torch.int64"),
        (lambda read: read.tolist(), TypeError, "expected a float tensor from Answer, got list"),
    ],
)
def test_answers_of_another_kind_are_refused(
    answer: Callable[[Tensor], Any], error: type[Exception], message: str
) -> None:
    class Answer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = table()

        def forward(self, index: Tensor) -> Any:
            return answer(self.table(index))

        def to_latent(self, index: Tensor) -> Tensor:
            return torch.ones(3, 2)

    softened = soften(Answer())
    for features in (random_index(2, 3), one_hot(random_index(2, 3))):
        with pytest.raises(error, match=re.escape(message)):
            softened(features)
    with pytest.raises(ValueError, match=re.escape("expected latents of shape (6, width), got (3, 2)")):
        softened.to_latent(random_index(2, 3))


@pytest.mark.parametrize(
    "features",
    [torch.zeros(4, dtype=torch.long), torch.zeros(4, 3), torch.zeros(2, 4, dtype=torch.bool)],
    ids=["one index", "rows without a batch", "booleans"],
)
def test_features_of_another_kind_are_refused(features: Tensor) -> None:
    expected = "expected long indices of shape (..., batch, features) or float rows of shape (..., batch, features, "
    with pytest.raises(ValueError, match=re.escape(expected) + r".*, got torch\.\w+ of shape"):
        soften(built("one-hot"))(features)


class NoSlope(torch.autograd.Function):
    """Its answer looks differentiable, as that of a quantised layer does, and gets no gradient."""

    @staticmethod
    def forward(ctx: Any, given: Tensor) -> Tensor:
        return given.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> None:
        return None


def test_the_check_refuses_a_layer_that_passes_no_gradient() -> None:
    module = Scorer(lambda self, index: NoSlope.apply(self.table(index)), table=table())  # type: ignore[no-untyped-call]
    with pytest.raises(NotSoftenable, match="to pass a gradient to its input, got a layer that passes none"):
        check_softened(soften(module), (CATEGORIES,) * FEATURES, None)


def test_the_check_refuses_scores_that_depend_on_other_rows() -> None:
    def centred(self: Any, index: Tensor) -> Tensor:
        read: Tensor = self.table(index)
        return read - read.mean(dim=0)

    with pytest.raises(ValueError, match="expected the same score for a row among others and alone from Scorer, got"):
        check_softened(soften(Scorer(centred, table=table())), (CATEGORIES,) * FEATURES, None)


@pytest.mark.parametrize("where", ["outside", "inside", "in place", "a function"])
def test_compiled_code_is_softened_as_the_code_that_it_is(where: str) -> None:
    plain, index = Scorer(lambda self, index: self.inner(index), inner=Nested()), random_index(3)
    module: Any = copy.deepcopy(plain)
    if where == "outside":
        module = torch.compile(module, backend="eager")
    elif where == "inside":
        module.inner = torch.compile(module.inner, backend="eager")
    elif where == "in place":
        module.compile(backend="eager")
    else:
        module.read = torch.compile(module.read, backend="eager")
    softened = soften(module)
    check_softened(softened, (CATEGORIES,) * FEATURES, None)
    assert torch.equal(softened(index), soften(plain)(index))
    assert torch.equal(softened(one_hot(index)), soften(plain)(one_hot(index)))


def test_shifts_past_the_table_are_refused() -> None:
    softened = soften(Scorer(lambda self, index: self.table(index + 6), table=table()))
    with pytest.raises(ValueError, match="expected indices below 6, the length of the table, got ones shifted by 6"):
        softened(one_hot(random_index(2)))


def test_only_modules_in_python_that_can_be_copied_are_softened() -> None:
    with pytest.raises(TypeError, match="expected an nn.Module to soften, got function"):
        soften(one_hot)  # type: ignore[arg-type]
    module = built("one-hot")
    module.held = torch.ones(2, requires_grad=True) * 2  # not a leaf, so torch refuses to copy it
    with pytest.raises(TypeError, match="expected a module that can be copied, got Scorer: Only Tensors created"):
        soften(module)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript_is_refused() -> None:
    scripted = torch.jit.script(nn.Linear(2, 1))
    with pytest.raises(TypeError, match="expected a module in Python, got TorchScript in layer 'body.0'"):
        soften(Scorer(lambda self, index: index, body=nn.Sequential(scripted)))


def test_the_check_scores_both_ends_of_every_feature() -> None:
    check_softened(soften(built("one table for all")), (CATEGORIES,) * FEATURES, None)
    check_softened(soften(InContext()), (CATEGORIES,) * FEATURES, torch.tensor([[1, 2]]))
    with pytest.raises(ValueError, match=r"expected Scorer to score indices below \(6, 6, 7, 6\), got IndexError at "):
        check_softened(soften(built("one table for all")), (6, 6, 7, 6), None)
    with pytest.raises(ValueError, match=r"got TypeError: .*missing 1 required positional argument: 'context'"):
        check_softened(soften(InContext()), (CATEGORIES,) * FEATURES, None)
    with pytest.raises(NotSoftenable, match="got mul in layer 'Scorer'"):
        module = Scorer(lambda self, index: self.table(index * 2), table=table(WIDE))
        check_softened(soften(module), (CATEGORIES,) * FEATURES, None)


def test_the_check_refuses_one_hot_rows_that_score_otherwise() -> None:
    def told_apart(self: Any, index: Tensor) -> Tensor:
        read: Tensor = self.table(index)
        return read + 1 if isinstance(index, SoftIndex) else read

    softened = soften(Scorer(told_apart, table=table()))
    assert isinstance(softened, Softened)
    with pytest.raises(ValueError, match="the same score for one-hot rows as for their indices from Scorer, got"):
        check_softened(softened, (CATEGORIES,) * FEATURES, None)
