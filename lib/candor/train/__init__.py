"""Trainings: one recipe a file, side by side, over TRL or a loop of our own."""
