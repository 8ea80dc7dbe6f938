"""What a GGUF file says of itself, for both engines; without mlx and without numpy."""
