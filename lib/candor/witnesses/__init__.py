"""Generative processes in which the truth is known exactly.

A world module gives `prompts(split, seed, n, ...)` as a `datasets.Dataset` and `grade(completions)`, which turns
completions into the columns that the world declares, and adds the exact posterior.
"""
