"""A soft index: probability rows that replace a long tensor of indices inside the module of a user.

A module may use a soft index as it uses indices before an embedding look-up. Selecting, reshaping and joining move the
rows; adding a constant shifts them along a table. A look-up returns probabilities times the rows of the table. Zero
times a number adds nothing, so one-hot rows give exactly the result of their index. All other functions need the number
of an index; a mixture of indices has no number, so they are refused.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial, reduce
from numbers import Integral
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CONSTANT = -1
"""The place of a constant index that was joined to soft ones; its shift is the constant."""
POISON = -(2**62)
"""The data of a soft index: code that reads it without ``__torch_function__`` fails instead of giving wrong results."""

Handler = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]


class NumberNeeded(Exception):
    """A function needs the number of an index.

    It is not a TypeError: after a TypeError in an operator, Python tries the other operand, and ``==`` returns False.
    """


@dataclass
class SoftRows:
    """The probability rows ``(rows, categories)`` of soft indices, and whether a table was read with any of them."""

    probabilities: Tensor
    looked_up: bool = False


class SoftIndex(Tensor):
    """A tensor of indices that are distributions.

    Attributes:
        rows: The probability rows.
        place: Long tensor of this index's shape: the number of the probability row, or :data:`CONSTANT`.
        shift: Long tensor of this index's shape: the sum of the constants that were added.
    """

    rows: SoftRows
    place: Tensor
    shift: Tensor

    @classmethod
    def of(cls, probabilities: Tensor) -> "SoftIndex":
        """Returns a soft index of shape ``(...)`` for float rows of shape ``(..., categories)``."""
        flat = probabilities.reshape(-1, probabilities.shape[-1])
        place = torch.arange(len(flat), device=flat.device).view(probabilities.shape[:-1])
        return cls.at(SoftRows(flat), place, torch.zeros_like(place))

    @classmethod
    def at(cls, rows: SoftRows, place: Tensor, shift: Tensor) -> "SoftIndex":
        """Returns the soft index with the given places and shifts."""
        index = torch.full((), POISON, device=place.device).expand(place.shape).as_subclass(cls)
        index.rows, index.place, index.shift = rows, place, shift
        return index

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        """Returns the shape and the number of categories."""
        return f"SoftIndex(shape={tuple(self.place.shape)}, categories={self.rows.probabilities.shape[-1]})"

    def __format__(self, format_spec: str) -> str:
        """Returns the same as ``repr``, for every format."""
        return repr(self)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Handles every torch function that is called with a soft index.

        Raises:
            NumberNeeded: If the function needs the numbers of the indices.
        """
        named = dict(kwargs or {})
        args = (named.pop("input"), *args) if "input" in named else args
        handler = _HANDLERS.get(func)
        return _refuse(_spelled(func)) if handler is None else handler(func, args, named)


def _refuse(what: str) -> Any:
    raise NumberNeeded(
        "expected the features to go into nn.Embedding as they come (selected, reshaped, joined, or shifted by a "
        f"constant), got {what}"
    )


def _spelled(func: Any) -> str:
    # For an attribute, the function is the __get__ of its descriptor.
    name = func.__name__
    return str(func.__self__.__name__ if name in ("__get__", "__set__") else name)


def _plain(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Handles functions that do not read the numbers, such as ``shape`` or ``zeros_like``."""
    with torch._C.DisableTorchFunctionSubclass():
        return func(*args, **kwargs)


def _moved(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Handles functions that move indices: applies them to places and shifts."""
    if not isinstance(args[0], SoftIndex):
        return _refuse(f"{_spelled(func)} of another tensor by them")
    if any(isinstance(leaf, SoftIndex) for leaf in _leaves((args[1:], kwargs))):
        return _refuse(f"{_spelled(func)} of them by one another")
    index, rest = args[0], args[1:]
    return _rejoined(index.rows, func(index.place, *rest, **kwargs), func(index.shift, *rest, **kwargs))


def _moved_like(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Handles ``view_as`` and the like, where either tensor may be the index."""
    first, *rest = args
    if not isinstance(first, SoftIndex):
        return _plain(func, args, kwargs)
    shapes = [part.place if isinstance(part, SoftIndex) else part for part in rest]
    return _moved(func, (first, *shapes), kwargs)


def _joined(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Joins indices; plain indices become constants."""
    parts = args[0] if args else kwargs["tensors"]
    rest = {key: value for key, value in kwargs.items() if key != "tensors"}
    if not all(isinstance(part, SoftIndex) or _is_integer(part) for part in parts):
        return _refuse(f"{_spelled(func)} of them with numbers that are no indices")
    rows = next(part.rows for part in parts if isinstance(part, SoftIndex))
    places = [p.place if isinstance(p, SoftIndex) else torch.full_like(p, CONSTANT, dtype=torch.long) for p in parts]
    shifts = [p.shift if isinstance(p, SoftIndex) else p.long() for p in parts]
    return _rejoined(rows, func(places, *args[1:], **rest), func(shifts, *args[1:], **rest))


def _rejoined(rows: SoftRows, places: Any, shifts: Any) -> Any:
    if isinstance(places, Tensor):
        return SoftIndex.at(rows, places, shifts)
    return type(places)(_rejoined(rows, place, shift) for place, shift in zip(places, shifts, strict=True))


def _leaves(tree: Any) -> list[Any]:
    if isinstance(tree, dict):
        tree = list(tree.values())
    return [leaf for branch in tree for leaf in _leaves(branch)] if isinstance(tree, list | tuple) else [tree]


def _is_integer(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)
    return isinstance(value, Integral) and not isinstance(value, bool)


def _shifted(sign: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Adds a constant to an index, or subtracts it."""
    if len(args) != 2 or kwargs:
        return _refuse(f"{_spelled(func)} with {', '.join(kwargs) or 'other than two arguments'}")
    index, constant = args if isinstance(args[0], SoftIndex) else args[::-1]
    if isinstance(constant, SoftIndex) or not _is_integer(constant) or (sign < 0 and index is not args[0]):
        return _refuse(f"{_spelled(func)} other than of an integer constant")
    shift = index.shift + sign * constant
    return SoftIndex.at(index.rows, index.place.expand(shift.shape), shift)


def _converted(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Accepts the conversion of an index to an integer type, which changes nothing."""
    if not isinstance(args[0], SoftIndex):
        return _plain(func, args, kwargs)
    index, *rest = args
    like = [part.place if isinstance(part, SoftIndex) else part for part in rest]
    found = func(index.place, *like, **kwargs)
    if not isinstance(found, Tensor):
        return found
    if found.dtype not in (torch.int32, torch.int64) or found.device != index.place.device:
        return _refuse(f"{_spelled(func)}, which makes them {found.dtype} on {found.device}")
    return index


def _indexed(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Selects among indices, or reads a table by an index: ``weight[index]``."""
    if isinstance(args[0], SoftIndex):
        return _moved(func, args, kwargs)
    table, index = args
    if isinstance(index, tuple) and len(index) == 1:  # what torch 2.8 makes of a single index
        (index,) = index
    return _read(index, table) if isinstance(index, SoftIndex) else _refuse("a tensor indexed by them and more")


def _index_selected(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Selects among indices, or reads a table by an index: ``weight.index_select(0, index)``."""
    if isinstance(args[0], SoftIndex):
        return _moved(func, args, kwargs)
    if kwargs or len(args) != 3 or args[1] != 0:
        return _refuse("index_select other than along dimension 0")
    return _read(args[2], args[0])


def _embedding(
    index: Any,
    weight: Tensor,
    padding_idx: Any = None,
    max_norm: Any = None,
    norm_type: float = 2.0,
    *_: Any,
    **__: Any,
) -> Tensor:
    """Replaces ``F.embedding``; ``padding_idx`` only changes the table's gradient, so it is ignored."""
    if not isinstance(index, SoftIndex):
        _refuse("an embedding whose table they are")
    return _read(index, _renormed(weight, max_norm, norm_type))


def _embedding_bag(
    index: Any,
    weight: Tensor,
    offsets: Any = None,
    max_norm: Any = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Any = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """Replaces ``F.embedding_bag`` on ``(batch, features)``: a look-up, then a sum, mean or maximum."""
    if offsets is not None or not isinstance(index, SoftIndex) or index.dim() != 2:
        _refuse("an EmbeddingBag with offsets or one-dimensional input")
    if padding_idx is not None and mode != "sum":
        _refuse(f"an EmbeddingBag of mode {mode!r} with padding_idx, which counts the indices that are not padding")
    table = _renormed(weight, max_norm, norm_type)
    if padding_idx is not None:
        table = table.index_fill(0, torch.tensor([padding_idx % len(table)], device=table.device), 0.0)
    vectors = _read(index, table)
    if per_sample_weights is not None:
        vectors = vectors * per_sample_weights.unsqueeze(-1)
    if mode == "max":
        return vectors.amax(dim=1)
    # Added one after another, as the kernel does: torch.sum rounds differently.
    total: Tensor = reduce(torch.add, vectors.unbind(1))
    return total if mode == "sum" else total / vectors.shape[1]


def _one_hot(index: Any, num_classes: int = -1) -> Tensor:
    """Replaces ``F.one_hot`` by the probabilities, as floats so that gradients pass."""
    if num_classes < 1:
        _refuse("F.one_hot without num_classes, which counts the categories that occur")
    rows: Tensor = index.rows.probabilities

    def picked(numbers: Tensor) -> Tensor:
        return F.one_hot(numbers, num_classes).to(rows.dtype)

    return _by_shift(index, partial(_placed, num_classes), picked).view(*index.shape, num_classes)


def _renormed(weight: Tensor, max_norm: float | None, norm_type: float) -> Tensor:
    # A look-up with max_norm changes the rows that it reads in place. Here all rows are read, so a copy is changed.
    if max_norm is None:
        return weight
    every = torch.arange(len(weight), device=weight.device)
    return torch.embedding_renorm_(weight.detach().clone(), every, max_norm, norm_type)


def _read(index: SoftIndex, table: Tensor) -> Tensor:
    """Returns the rows of a table at an index, ``(*index.shape, *table.shape[1:])``."""
    flat = table.reshape(len(table), -1)
    read = _by_shift(index, partial(_product, flat), lambda numbers: flat.index_select(0, numbers))
    return read.view(*index.shape, *table.shape[1:])


def _by_shift(index: SoftIndex, window: Callable[[Tensor, int], Tensor], picked: Callable[[Tensor], Tensor]) -> Tensor:
    """Reads the places with equal shifts together, as they share a window of the table, and restores the order."""
    index.rows.looked_up = True
    place, shift = index.place.flatten(), index.shift.flatten()
    constant = place == CONSTANT
    lowest, highest = map(int, shift.aminmax())
    if lowest == highest and not bool(constant.any()):
        return window(_taken(index.rows.probabilities, place), lowest)
    where, parts = [], []
    if bool(constant.any()):
        where.append(constant.nonzero().squeeze(-1))
        parts.append(picked(shift[where[-1]]))
    for value in shift[~constant].unique().tolist():
        where.append((~constant & (shift == value)).nonzero().squeeze(-1))
        parts.append(window(_taken(index.rows.probabilities, place[where[-1]]), value))
    return torch.cat(parts).index_select(0, torch.cat(where).argsort())


def _taken(rows: Tensor, place: Tensor) -> Tensor:
    # All rows in order need no copy; this is the case if all features share one table.
    whole = len(place) == len(rows) and torch.equal(place, torch.arange(len(rows), device=rows.device))
    return rows if whole else rows.index_select(0, place)


def _product(table: Tensor, rows: Tensor, shift: int) -> Tensor:
    """Returns ``rows @ table[shift : shift + categories]``, cut at the ends of the table."""
    start, stop = max(shift, 0), min(shift + rows.shape[-1], len(table))
    if stop <= start:
        raise ValueError(f"expected indices below {len(table)}, the length of the table, got ones shifted by {shift}")
    return rows[:, start - shift : stop - shift].to(table.dtype) @ table[start:stop]


def _placed(size: int, rows: Tensor, shift: int) -> Tensor:
    """Returns rows ``(rows, size)`` that hold the given rows from ``shift`` on, cut at the end."""
    return F.pad(rows, (shift, size - shift - rows.shape[-1]))


def _call(handler: Callable[..., Any], func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return handler(*args, **kwargs)


def _table_first(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    # F.embedding calls torch.embedding, whose first argument is the table.
    return _embedding(args[1], args[0])


def _functions(names: str) -> list[Any]:
    """Returns the functions of torch and the methods and attributes of tensors with the given names."""
    found = []
    for name in names.split():
        function, member = getattr(torch, name, None), getattr(Tensor, name, None)
        # torch.device and torch.long are a type and a dtype, no functions.
        found += [function] if callable(function) and not isinstance(function, type) else []
        found += [] if member is None else [member if callable(member) else member.__get__]
    return found


_HANDLERS: dict[Any, Handler] = {
    **dict.fromkeys(
        _functions(
            "shape size dim ndim ndimension numel nelement stride dtype device layout itemsize nbytes names is_cuda "
            "is_sparse is_nested is_quantized is_mkldnn is_meta is_leaf requires_grad grad_fn is_floating_point "
            "is_complex is_contiguous get_device __len__ __hash__ zeros_like ones_like full_like empty_like rand_like "
            "randn_like new_zeros new_ones new_full new_empty new_tensor"
        ),
        _plain,
    ),
    **dict.fromkeys(
        _functions(
            "select narrow unbind __iter__ chunk split split_with_sizes tensor_split hsplit vsplit dsplit unflatten "
            "view reshape flatten ravel unsqueeze squeeze transpose swapaxes swapdims t permute movedim moveaxis T mT "
            "expand broadcast_to repeat tile repeat_interleave flip fliplr flipud roll unfold contiguous clone detach "
            "data"
        ),
        _moved,
    ),
    **dict.fromkeys(_functions("view_as reshape_as expand_as"), _moved_like),
    **dict.fromkeys(_functions("cat concat concatenate stack hstack vstack dstack column_stack"), _joined),
    **dict.fromkeys(_functions("add __add__ __radd__"), partial(_shifted, 1)),
    **dict.fromkeys(_functions("sub subtract __sub__"), partial(_shifted, -1)),
    **dict.fromkeys(_functions("long int to type type_as cpu"), _converted),
    **dict.fromkeys(_functions("__getitem__"), _indexed),
    **dict.fromkeys(_functions("index_select"), _index_selected),
    F.embedding: partial(_call, _embedding),
    torch.embedding: _table_first,
    F.embedding_bag: partial(_call, _embedding_bag),
    F.one_hot: partial(_call, _one_hot),
}
