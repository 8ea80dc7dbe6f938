"""Requests that begin in the same moment share the loop."""

import asyncio
from functools import partial

from adapters.turns import Turns


async def test_burst_begins_in_order_over_several_turns_of_the_loop():
    turns, started = Turns(2), list[int]()
    for at in range(5):
        turns.take(partial(started.append, at))
    counts = [len(started)]
    while len(started) < 5:
        await asyncio.sleep(0)
        counts.append(len(started))
    assert counts == [2, 4, 5]
    assert started == [*range(5)]


async def test_few_begin_at_once_in_each_turn():
    turns, started = Turns(2), list[int]()
    for at in range(20):
        turns.take(partial(started.append, at))
        assert started[-1] == at
        if at % 2:
            await asyncio.sleep(0)
