"""`tandem connect CLIENT`: the settings of clients, and how they are merged into their files."""
