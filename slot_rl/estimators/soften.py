"""Softening: a module that scores indices through ``nn.Embedding`` also scores probability rows.

The module's code does not change. A frozen copy of it is called with a
:class:`~slot_rl.estimators.soft_index.SoftIndex` instead of indices, which returns ``rows @ table`` for a look-up.
One-hot rows and their indices give the same look-ups, so their scores are equal bit for bit if the rest of the module
uses the same kernels for both. ``nn.TransformerEncoderLayer`` does not: for inputs without a gradient it uses a fused
kernel with other rounding.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from slot_rl.estimators.answers import check_answers, check_same, described
from slot_rl.estimators.freezing import code_place, frozen
from slot_rl.estimators.row_scorer import RowScorer
from slot_rl.estimators.soft_index import NumberNeeded, SoftIndex


class NotSoftenable(TypeError):
    """The indices of a module cannot be replaced by probability rows."""


class Softened(RowScorer):
    """A frozen copy of a module that takes indices or probability rows.

    Attributes:
        module: The copy, always in eval mode.
    """

    def __init__(self, module: nn.Module) -> None:
        """Copies the module; see :func:`soften`."""
        super().__init__()
        self.module = frozen(module)

    def train(self, mode: bool = True) -> "Softened":
        """Does nothing: a frozen module stays in eval mode."""
        return super().train(False)

    def forward(self, features: Tensor, context: Tensor | None = None) -> Tensor:
        """Scores configurations.

        Args:
            features: Long indices of shape ``(..., batch, features)``, or float rows of probabilities of shape
                ``(..., batch, features, categories)``. Categories that a table does not have add nothing.
            context: Long tensor of shape ``(batch, columns)``, the module's second argument; None if it has none.

        Returns:
            Tensor of shape ``(..., batch)``.

        Raises:
            NotSoftenable: A TypeError, if the module computes with indices before the look-up, has no look-up, returns
                no float scores, or passes no gradient to rows that require one.
            ValueError: If the module's scores are not of shape ``(batch,)`` or ``(batch, 1)``.
        """
        answer, leading = self._ask(self.module, features, context)
        rows = leading.numel()
        if answer.shape not in ((rows,), (rows, 1)):
            raise ValueError(f"expected scores of shape ({rows},) or ({rows}, 1), got {tuple(answer.shape)}")
        return answer.reshape(leading)

    def to_latent(self, features: Tensor, context: Tensor | None = None) -> Tensor:
        """Returns the module's own ``to_latent``, of shape ``(..., batch, width)``; arguments as for a call.

        Raises:
            NotSoftenable: A TypeError, if the module has no ``to_latent``, or as for a call.
            ValueError: If the latents are not of shape ``(batch, width)``.
        """
        to_latent = getattr(self.module, "to_latent", None)
        if not callable(to_latent):
            raise NotSoftenable(f"expected an estimator with to_latent, got {_name(self.module)} without one")
        answer, leading = self._ask(to_latent, features, context)
        rows = leading.numel()
        if answer.dim() != 2 or len(answer) != rows:
            raise ValueError(f"expected latents of shape ({rows}, width), got {tuple(answer.shape)}")
        return answer.reshape(*leading, -1)

    def _ask(self, call: Callable[..., Any], features: Tensor, context: Tensor | None) -> tuple[Tensor, torch.Size]:
        """Returns the module's output ``(rows, ...)`` and the leading dimensions that were flattened to rows."""
        soft = features.is_floating_point()
        leading = features.shape[: -2 if soft else -1]
        if not leading or (not soft and features.dtype not in (torch.int32, torch.int64)):
            raise ValueError(
                "expected long indices of shape (..., batch, features) or float rows of shape (..., batch, features, "
                f"categories), got {features.dtype} of shape {tuple(features.shape)}"
            )
        flat = features.flatten(0, len(leading) - 1)
        index = SoftIndex.of(flat) if soft else flat
        inputs = (index,) if context is None else (index, context.expand(*leading, -1).flatten(0, len(leading) - 1))
        try:
            with _uncompiled():
                answer = call(*inputs)
        except NumberNeeded as error:
            raise NotSoftenable(f"{error} in layer {self._layer(error.__traceback__)}") from error
        self._check(answer, index, features)
        return answer.to(features.dtype if soft else torch.get_default_dtype()), leading

    def _check(self, answer: Any, index: Tensor, features: Tensor) -> None:
        if not isinstance(answer, Tensor) or not answer.is_floating_point() or answer.device != features.device:
            raise NotSoftenable(f"expected a float tensor from {_name(self.module)}, got {described(answer)}")
        if isinstance(index, SoftIndex) and not index.rows.looked_up:
            raise NotSoftenable(f"expected {_name(self.module)} to look its input up in nn.Embedding, got no look-up")
        if features.requires_grad and torch.is_grad_enabled() and not answer.requires_grad:
            raise NotSoftenable(
                f"expected {_name(self.module)} to pass a gradient to its input, got an answer without one "
                "(is there a detach or a no_grad?)"
            )

    def _layer(self, trace: TracebackType | None) -> str:
        """Returns the innermost module whose method raised an error."""
        names = {id(part): f"{name!r} ({_name(part)})" for name, part in self.module.named_modules()}
        names[id(self.module)] = repr(_name(self.module))
        found = names[id(self.module)]
        while trace is not None:
            code, local = trace.tb_frame.f_code, trace.tb_frame.f_locals
            owner = local.get(code.co_varnames[0]) if code.co_argcount else None
            found = names.get(id(owner), found)
            trace = trace.tb_next
        return found


def soften(module: nn.Module) -> Softened:
    """Returns a frozen copy of a module that scores indices; the copy also scores probability rows.

    The caller's module does not change. A softened module is returned unchanged. Whether a module can be softened
    shows when rows are scored.

    Args:
        module: Takes a long tensor ``(batch, features)``, and optionally a context ``(batch, columns)``, and returns
            ``(batch,)`` or ``(batch, 1)``. The indices must go to ``nn.Embedding``, ``F.embedding``, an
            ``nn.EmbeddingBag`` without offsets, ``weight[index]``, or ``F.one_hot`` times a matrix. Before that
            they may be selected, reshaped, joined, and shifted by constants.

    Raises:
        TypeError: If it is not a module, a TorchScript module, or a module that cannot be copied.
    """
    if isinstance(module, Softened):
        return module
    if not isinstance(module, nn.Module):
        raise TypeError(f"expected an nn.Module to soften, got {_name(module)}")
    for name, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise TypeError(f"expected a module in Python, got TorchScript in layer {name or _name(module)!r}")
    try:
        return Softened(module)
    except (RuntimeError, TypeError) as error:
        raise TypeError(f"expected a module that can be copied, got {_name(module)}: {error}") from error


def check_softened(softened: Softened, sizes: tuple[int, ...], context: Tensor | None) -> None:
    """Tries a module on the first and the last category of every feature.

    The scores of indices must be those of one-hot rows, and of each row alone, and the rows must get a gradient.

    Args:
        softened: The module.
        sizes: Number of categories of each feature.
        context: Long tensor of shape ``(1, columns)``, or None.

    Raises:
        NotSoftenable: A TypeError, if the module cannot be softened.
        ValueError: If it cannot score these indices, or the scores differ.
    """
    last = torch.tensor(sizes) - 1
    indices = torch.stack([torch.zeros_like(last), last])
    context = None if context is None else context.expand(2, -1)
    rows = nn.functional.one_hot(indices, max(sizes)).float().requires_grad_()

    def ask(asked: Sequence[int]) -> Tensor:
        scores: Tensor = softened(indices[list(asked)], None if context is None else context[: len(asked)])
        return scores

    name = _name(softened.module)
    try:
        with torch.enable_grad():
            soft, hard = softened(rows, context), ask(range(2))
            (slope,) = torch.autograd.grad(soft.sum(), rows, allow_unused=True)
    except NotSoftenable:
        raise
    except Exception as error:  # code of the user may raise anything
        found = f"{type(error).__name__}{code_place(error)}: {' '.join(str(error).split())}"
        raise ValueError(f"expected {name} to score indices below {sizes}, got {found}") from error
    if slope is None:
        raise NotSoftenable(
            f"expected {name} to pass a gradient to its input, got a layer that passes none (is a layer quantised?)"
        )
    check_answers(name, ask, 2)
    check_same(f"the same score for one-hot rows as for their indices from {name}", soft.detach(), hard)


def _uncompiled() -> AbstractContextManager[Any]:
    """Returns a context in which ``torch.compile`` does nothing: compiled code cannot read a soft index."""
    # Nothing is compiled before this is imported, and importing it takes long.
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def _name(thing: object) -> str:
    return type(thing).__name__
