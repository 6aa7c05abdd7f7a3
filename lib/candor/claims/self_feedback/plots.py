"""The figures of claim 6. Each reads the claim's tables and nothing else."""

from __future__ import annotations

from candor.figures import Plot

FIGURES: dict[str, Plot] = {}
