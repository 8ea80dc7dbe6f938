"""Text to vectors: encoders that mlx-lm does not have, and two of its decoders read as encoders."""
