"""Metrics for Prometheus: figures of answers, from their records, and the state at a scrape."""
