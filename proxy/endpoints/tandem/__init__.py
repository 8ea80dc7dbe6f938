"""Tandem's own API."""
