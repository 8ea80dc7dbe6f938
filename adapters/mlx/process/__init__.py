"""MLX in a process of its own, so that a native abort ends the engine and not the server."""
