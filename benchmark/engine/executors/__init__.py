"""Executors bring stages into the store, each a module with a function ``execute``."""

EXECUTORS = ("inline", "local", "slurm", "none")
"""In this process, in several, as jobs of SLURM, and not at all: what is there has to do."""
