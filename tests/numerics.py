"""How close two computations of the same numbers in float32 must come, on any processor.

No two processors round alike: sums in another order differ by units of rounding, and layers add them up.
"""

import numpy as np
import torch

UNITS = 256  # a mistake is thousands of units large, the rounding of a small transformer some tens
ROUNDING = UNITS * float(np.finfo(np.float32).eps)  # of numbers around 1, such as probabilities


def assert_close(ours, theirs, msg: str = "values") -> None:
    """Two tensors or arrays agree to `UNITS` of rounding of the largest of `theirs`."""
    ours, theirs = (torch.as_tensor(part).detach().double() for part in (ours, theirs))
    assert ours.shape == theirs.shape, msg
    worst = (ours - theirs).abs().max() / (ROUNDING * max(1.0, theirs.abs().max().item()))
    assert worst <= 1, f"{msg}: {UNITS * worst:.0f} units of rounding apart"
