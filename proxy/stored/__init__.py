"""Stored answers: a SQLite database in the state folder, which survives restarts."""
