"""The HTTP side: dialects in, `GenerationRequest`s out, and events back into dialects."""
