"""`POST /api/chat` as Ollama's clients use it."""
