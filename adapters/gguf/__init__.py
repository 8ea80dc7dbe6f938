"""Metadata and vocabulary of GGUF files, for both engines; without mlx and numpy."""
