"""The original hybrid API, `/api/…`: both engines by name, Ollama's own chat among it."""
