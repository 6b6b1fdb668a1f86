"""A soft index: probability rows that play the part of a long tensor of indices inside somebody's module.

What a module may do with indices before it looks them up, it may do with a soft index. Selecting, reshaping and joining
move rows about; adding a constant shifts them along a table. A look-up answers probabilities times the table's rows,
and since zero times a number adds nothing, one-hot rows read exactly what their index reads. Everything else would need
the number that an index is; a mixture of indices is none, so it is refused.
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
"""The place of an index that came as a number and was joined to soft ones; its shift is that number."""
POISON = -(2**62)
"""What a soft index holds as a tensor, so that whatever reads it past ``__torch_function__`` fails and cannot err."""

Handler = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]


class NumberNeeded(Exception):
    """A function needs the number that an index is.

    No TypeError: Python takes one out of an operator for "try the other operand", and tells ``==`` without it.
    """


@dataclass
class SoftRows:
    """What soft indices stand for.

    Attributes:
        probabilities: Float tensor of shape ``(rows, categories)``.
        looked_up: Whether a table has been read with any of them.
    """

    probabilities: Tensor
    looked_up: bool = False


class SoftIndex(Tensor):
    """Indices that are distributions.

    Attributes:
        rows: What the places point into.
        place: Long tensor of this index's shape: which row stands here, or :data:`CONSTANT`.
        shift: Long tensor of this index's shape: what has been added.
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
        """Returns the soft index of some places."""
        index = torch.full((), POISON, device=place.device).expand(place.shape).as_subclass(cls)
        index.rows, index.place, index.shift = rows, place, shift
        return index

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        """Returns the shape; there are no numbers to show."""
        return f"SoftIndex(shape={tuple(self.place.shape)}, categories={self.rows.probabilities.shape[-1]})"

    def __format__(self, format_spec: str) -> str:
        """Returns the shape, whatever the format."""
        return repr(self)

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Answers every torch function that is called with a soft index.

        Raises:
            NumberNeeded: If the function needs the indices' numbers.
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
    # An attribute arrives as the __get__ of its descriptor.
    name = func.__name__
    return str(func.__self__.__name__ if name in ("__get__", "__set__") else name)


def _plain(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Describes an index, or makes another tensor in its likeness: the numbers are not looked at."""
    with torch._C.DisableTorchFunctionSubclass():
        return func(*args, **kwargs)


def _moved(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Moves places and shifts as the function moves indices."""
    if not isinstance(args[0], SoftIndex):
        return _refuse(f"{_spelled(func)} of another tensor by them")
    if any(isinstance(leaf, SoftIndex) for leaf in _leaves((args[1:], kwargs))):
        return _refuse(f"{_spelled(func)} of them by one another")
    index, rest = args[0], args[1:]
    return _rejoined(index.rows, func(index.place, *rest, **kwargs), func(index.shift, *rest, **kwargs))


def _moved_like(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Gives a tensor another one's shape; either may be the index."""
    first, *rest = args
    if not isinstance(first, SoftIndex):
        return _plain(func, args, kwargs)
    shapes = [part.place if isinstance(part, SoftIndex) else part for part in rest]
    return _moved(func, (first, *shapes), kwargs)


def _joined(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Joins indices; those that come as numbers become constants."""
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
    """Adds a constant to an index, or takes it off."""
    if len(args) != 2 or kwargs:
        return _refuse(f"{_spelled(func)} with {', '.join(kwargs) or 'other than two arguments'}")
    index, constant = args if isinstance(args[0], SoftIndex) else args[::-1]
    if isinstance(constant, SoftIndex) or not _is_integer(constant) or (sign < 0 and index is not args[0]):
        return _refuse(f"{_spelled(func)} other than of an integer constant")
    shift = index.shift + sign * constant
    return SoftIndex.at(index.rows, index.place.expand(shift.shape), shift)


def _converted(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Converts an index to a type that can still be one, which changes nothing."""
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
    """Selects among indices, or reads a table by one: ``weight[index]``."""
    if isinstance(args[0], SoftIndex):
        return _moved(func, args, kwargs)
    table, index = args
    return _read(index, table) if isinstance(index, SoftIndex) else _refuse("a tensor indexed by them and more")


def _index_selected(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Selects among indices, or reads a table by one: ``weight.index_select(0, index)``."""
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
    """Stands in for ``F.embedding``; ``padding_idx`` is about the table's own gradient, so nothing is to be done."""
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
    """Stands in for ``F.embedding_bag`` on ``(batch, features)``: a look-up, then a sum, mean or maximum."""
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
    # One after another, as the kernel adds them: torch.sum would round otherwise.
    total: Tensor = reduce(torch.add, vectors.unbind(1))
    return total if mode == "sum" else total / vectors.shape[1]


def _one_hot(index: Any, num_classes: int = -1) -> Tensor:
    """Stands in for ``F.one_hot``: the probabilities are the one-hot rows. Float, so that a gradient can pass."""
    if num_classes < 1:
        _refuse("F.one_hot without num_classes, which counts the categories that occur")
    rows: Tensor = index.rows.probabilities

    def picked(numbers: Tensor) -> Tensor:
        return F.one_hot(numbers, num_classes).to(rows.dtype)

    return _by_shift(index, partial(_placed, num_classes), picked).view(*index.shape, num_classes)


def _renormed(weight: Tensor, max_norm: float | None, norm_type: float) -> Tensor:
    # A look-up with max_norm shortens the rows that it reads, in place. Here all are read, so all of a copy's are.
    if max_norm is None:
        return weight
    every = torch.arange(len(weight), device=weight.device)
    return torch.embedding_renorm_(weight.detach().clone(), every, max_norm, norm_type)


def _read(index: SoftIndex, table: Tensor) -> Tensor:
    """Returns the table's rows at an index, ``(*index.shape, *table.shape[1:])``."""
    flat = table.reshape(len(table), -1)
    read = _by_shift(index, partial(_product, flat), lambda numbers: flat.index_select(0, numbers))
    return read.view(*index.shape, *table.shape[1:])


def _by_shift(index: SoftIndex, window: Callable[[Tensor, int], Tensor], picked: Callable[[Tensor], Tensor]) -> Tensor:
    """Reads places of one shift at a time, since they share a window of the table, and puts them back in order."""
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
    # All rows in order, as where one table serves all features, need not be copied.
    whole = len(place) == len(rows) and torch.equal(place, torch.arange(len(rows), device=rows.device))
    return rows if whole else rows.index_select(0, place)


def _product(table: Tensor, rows: Tensor, shift: int) -> Tensor:
    """Returns ``rows @ table[shift : shift + categories]``, as far as the table reaches."""
    start, stop = max(shift, 0), min(shift + rows.shape[-1], len(table))
    if stop <= start:
        raise ValueError(f"expected indices below {len(table)}, the length of the table, got ones shifted by {shift}")
    return rows[:, start - shift : stop - shift].to(table.dtype) @ table[start:stop]


def _placed(size: int, rows: Tensor, shift: int) -> Tensor:
    """Returns rows ``(rows, size)`` that hold the given ones from ``shift`` on, as far as there is room."""
    return F.pad(rows, (shift, size - shift - rows.shape[-1]))


def _call(handler: Callable[..., Any], func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return handler(*args, **kwargs)


def _table_first(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    # torch.embedding, which F.embedding calls, takes the table first.
    return _embedding(args[1], args[0])


def _functions(names: str) -> list[Any]:
    """Returns what the names mean as functions of torch, methods of a tensor, and attributes of a tensor."""
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
