"""The engine thread: scheduling, prefill, decoding, sampling, prefix caches."""
