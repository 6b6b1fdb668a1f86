"""Splits encoded rows as the fit of a table does."""

import torch

from slot_rl.estimators.fitting import TableFit, TableRows, split_places


def split_rows(rows: TableRows, fit: TableFit, generator: torch.Generator) -> tuple[TableRows, TableRows, TableRows]:
    """Returns the rows to train on, to validate on and to test on."""
    train, validation, test = (rows[part] for part in split_places(len(rows), fit, generator))
    return train, validation, test
