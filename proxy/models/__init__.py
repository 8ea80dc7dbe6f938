"""Which models exist on which backend, and how a missing one is fetched."""
