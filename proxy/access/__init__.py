"""Access: keys of clients, their roles, their limits, and what a request may do."""
