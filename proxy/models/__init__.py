"""Models: which backend has which, their names, loading and downloading."""
