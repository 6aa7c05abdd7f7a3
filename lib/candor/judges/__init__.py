"""Simulated people who compare two responses."""
