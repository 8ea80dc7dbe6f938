"""Servers of Tandem that have one another as their Ollama: requests would go in a circle."""

import secrets

SERVER_HEADER = "x-tandem-server"
"""A header with the id of the server that sends a request."""
SERVER_ID = secrets.token_hex(8)
"""The id of this process."""
CIRCLE = (
    "This is a Tandem that has this server as its Ollama, directly or by way of others: requests "
    "would go in a circle. Take one of them out of `backends`."
)
