"""Connections to servers that run elsewhere: transport, deadlines, circuit breaker."""
