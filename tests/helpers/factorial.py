"""A small table of every combination of three features in two contexts."""

from itertools import product
from pathlib import Path


def write_factorial(path: Path) -> Path:
    """Writes the table; the first feature's effect on the score changes sign with the context."""
    rows = [
        f"{u},{a},{b},{c},{(2 * a - 3) * (1 if u == 'hot' else -1) + 3 * b - c}"
        for u, a, b, c in product(["hot", "cold"], range(4), range(4), range(5))
    ]
    path.write_text("\n".join(["u,a,b,c,y", *rows]) + "\n", encoding="utf-8")
    return path
