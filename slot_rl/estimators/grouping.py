"""Equal rows of a matrix, found column by column: a code for all columns at once may overflow."""

from typing import Any

import numpy as np
import numpy.typing as npt

Places = npt.NDArray[np.int64]


def group_rows(rows: npt.NDArray[Any]) -> tuple[Places, Places, Places]:
    """Groups equal rows ``(rows, columns)``, one row at least; groups are in the order of their rows as tuples.

    Returns:
        The first row of each group, each row's group, and how many rows each group has.
    """
    group = np.zeros(len(rows), dtype=np.int64)
    first, count = group[:1], np.array([len(rows)])
    for column in rows.T:
        if column.dtype != np.int64:
            column = np.unique(column, return_inverse=True)[1].astype(np.int64)
        code = group * (int(column.max()) + 1) + column
        _, first, group, count = np.unique(code, return_index=True, return_inverse=True, return_counts=True)
    return first, group, count
