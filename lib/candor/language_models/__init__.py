"""The papers' data sets behind the same interface as a world.

A set of `sets.SETS` gives `prompts(name, split, seed, n)` as a `datasets.Dataset`, and `text.grade` turns
completions into the columns answer, correct, confidence, well_formed. The rows lie in `data/corpora/<name>/`, put
there by `python -m candor fetch NAME`; nothing here reaches for the network.
"""
