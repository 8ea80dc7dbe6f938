"""Import models from Ollama to MLX, export them to Ollama, and compare both engines."""
