"""Sampled tokens to events: text, reasoning, tool calls, logprobs."""
