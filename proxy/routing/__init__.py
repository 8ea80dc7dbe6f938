"""Who answers a request: what it needs, who can, who is fastest, and who stands in."""
