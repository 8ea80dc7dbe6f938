"""Reading of a client's JSON schemas, for both engines: one meaning, one wording of mistakes."""
