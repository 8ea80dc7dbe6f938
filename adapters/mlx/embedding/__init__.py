"""Embedding models: encoders that mlx-lm lacks, and two of its decoders used as encoders."""
