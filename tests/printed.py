"""Numbers that a text relies on, held against the tables of a claim."""

from pathlib import Path

import numpy as np

PUBLISHED = Path(__file__).parents[1] / "data" / "published"


def near(table, keys: str, columns: str, values: dict, atol: float = 6e-4) -> None:
    """`columns` of the rows with these keys: key (a tuple if there are several) -> numbers; names apart by spaces."""
    found = table.set_index(keys.split()).loc[list(values), columns.split()].to_numpy(float)
    np.testing.assert_allclose(found, np.array(list(values.values())).reshape(found.shape), atol=atol)
