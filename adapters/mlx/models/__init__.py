"""The models on this machine: catalog, download, loading, memory estimates."""
