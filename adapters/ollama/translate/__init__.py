"""Translation between Tandem's contract and Ollama's API, as pure functions where possible."""
