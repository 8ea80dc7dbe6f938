"""The context length (`num_ctx`) of each request to Ollama."""
