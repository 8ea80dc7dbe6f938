"""Texts that tools are called with in place of arguments."""

import json

import pytest

from proxy.endpoints.tools import InputReader, to_input

TEXT = 'a "b"\n\U0001f600 c'


@pytest.mark.parametrize("ascii_only", [True, False])
def test_arguments_that_are_cut_anywhere_are_read_alike_whole_and_in_pieces(ascii_only: bool):
    arguments = json.dumps({"input": TEXT}, ensure_ascii=ascii_only)
    for end in range(len(arguments) + 1):
        cut = arguments[:end]
        reader = InputReader()
        pieces = "".join(map(reader.feed, cut)) + reader.rest()
        assert pieces == to_input(cut)
        assert TEXT.startswith(pieces)


def test_arguments_without_their_last_brace_are_the_text():
    assert to_input('{"input": "aab"') == "aab"


@pytest.mark.parametrize("arguments", ["", "{", ' { "inp', '{"input" : '])
def test_arguments_that_are_cut_before_the_text_are_no_text(arguments: str):
    assert to_input(arguments) == ""


@pytest.mark.parametrize("arguments", ["ls -l", '{"input": 5}', '{"other": "a"}', "[1]"])
def test_arguments_of_another_form_are_passed_on(arguments: str):
    assert to_input(arguments) == arguments
