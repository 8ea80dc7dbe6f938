"""One file is one URL."""
