"""The dialect of Anthropic's API."""
