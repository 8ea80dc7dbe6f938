"""The same model on both engines: what one has, made for the other, and held against its source."""
