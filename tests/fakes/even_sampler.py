"""The worst of all models: it finds every token that a grammar allows equally likely.

For the byte vocabulary of `tiny_model`.
"""

import random
from typing import Any

import numpy as np
from fakes.tiny_model import END
from llguidance import LLMatcher


def draw(tokenizer: Any, matcher: LLMatcher, seed: int, most: int = 200_000) -> str:
    """A whole answer. `matcher` is used up."""
    chance, tokens = random.Random(seed), list[int]()  # noqa: S311
    for _ in range(most):
        words = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        token = int(chance.choice(np.flatnonzero(np.unpackbits(words, bitorder="little"))))
        if token == END:
            return tokenizer.decode(tokens)
        assert matcher.consume_token(token), matcher.get_error()
        tokens.append(token)
    raise AssertionError(f"no end after {most} tokens: {tokenizer.decode(tokens)[:300]}")


def fits(tokenizer: Any, matcher: LLMatcher, text: str) -> bool:
    """Return true if `text`, in which control tokens may be named, is a whole answer."""
    start, ids = matcher.deep_copy(), tokenizer.encode(text, add_special_tokens=False)
    return start.try_consume_tokens(ids) == len(ids) and start.is_accepting()
