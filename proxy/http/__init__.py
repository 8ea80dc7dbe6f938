"""The wire: connections, gates, bodies, headers, streams."""
