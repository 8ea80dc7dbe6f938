"""`POST /api/generate` as Ollama's clients use it."""
