"""Faults put into a running server: one command each, with printed figures.

    python -m tools.faults NAME [--count N]

Starts the server and a scripted upstream as processes of their own, and talks to them over raw
sockets. `tools/faults/__main__.py` lists the names.
"""
