"""Shared memory budget for the models of all backends."""
