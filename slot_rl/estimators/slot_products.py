"""Encoders that multiply: each slot's vector meets itself, so that products of its numbers need no deep network.

A layer is the product of two affine maps, ``(A x + a) * (B x + b)``, so L layers hold products of up to ``2^L`` numbers
of a vector. A network of sums and smooth steps needs many units for one such product. Jayakumar et al., "Multiplicative
Interactions and Where to Find Them" (2020).
"""

from collections.abc import Sequence
from functools import cache
from math import comb, sqrt

import torch
from torch import Tensor, nn

BIAS_SCALE = 0.3
OUTPUT_FACTOR = 2.0
"""What the last layer is multiplied by, after the inverse hyperbolic sine has kept large products in bounds."""

MOST_NUMBERS = 64
"""Numbers of a vector and products of them together, at most."""


def products_of_numbers(vectors: Tensor) -> Tensor:
    """Returns the products of different numbers of vectors ``(..., dim)``, of as high a degree as there are few.

    Of a degree there are all products or none, and with the numbers themselves at most :data:`MOST_NUMBERS`.
    """
    last, degrees = vectors, [vectors[..., :0]]
    for below, further in _factors(vectors.shape[-1]):
        last = last[..., below] * vectors[..., further]
        degrees.append(last)
    return torch.cat(degrees, dim=-1)


@cache
def _factors(dim: int) -> list[tuple[Tensor, Tensor]]:
    """Returns, for each degree from 2, each product's place among those of the degree below, and its further number."""
    found, count = list[tuple[Tensor, Tensor]](), dim
    products: list[tuple[int, ...]] = [(number,) for number in range(dim)]
    for degree in range(2, dim + 1):
        count += comb(dim, degree)
        if count > MOST_NUMBERS:
            break
        # The further number comes later than the others, so that no product is made twice.
        made = [(below, number) for below, each in enumerate(products) for number in range(each[-1] + 1, dim)]
        below, further = zip(*made, strict=True)
        found.append((torch.tensor(below), torch.tensor(further)))
        products = [(*products[place], number) for place, number in made]
    return found


class SlotProducts(nn.Module):
    """Computes features from vectors ``(..., slots, dim)``, with weights of its own for each slot."""

    def __init__(self, slots: int, dim: int, widths: Sequence[int]) -> None:
        """Builds the layers with weights from the global generator; see ``slot_rl.seeding``.

        Args:
            slots: Slots of a configuration, S; 1 for vectors that all have the same weights.
            dim: Length D of a slot's vector.
            widths: Width of each layer, at least one.

        Raises:
            ValueError: If there is no layer, or a width below 1.
        """
        super().__init__()
        if not widths or min(widths) < 1:
            raise ValueError(f"expected at least one width, each >= 1, got {tuple(widths)}")
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for inputs, width in zip((dim, *widths), widths, strict=False):
            # Both maps of a layer side by side: one matrix product a slot.
            self.weights.append(torch.randn(slots, inputs, 2 * width) / sqrt(inputs))
            self.biases.append(BIAS_SCALE * torch.randn(slots, 1, 2 * width))

    def forward(self, vectors: Tensor) -> Tensor:
        """Returns features ``(..., slots, widths[-1])``, which grow as the logarithm of large products."""
        flat = vectors.reshape(-1, *vectors.shape[-2:])
        features = flat.transpose(0, 1)
        if len(self.weights[0]) == 1:
            features = features.flatten(0, 1).unsqueeze(0)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            left, right = torch.baddbmm(bias, features, weight).chunk(2, dim=-1)
            features = left * right
        slots_first = (torch.asinh(features) * OUTPUT_FACTOR).view(vectors.shape[-2], len(flat), -1)
        return slots_first.transpose(0, 1).reshape(*vectors.shape[:-1], -1)
