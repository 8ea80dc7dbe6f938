"""The handlers of all URLs: a folder for each API, and beside them what several URLs share.

`generate.py` answers every URL that generates; a dialect is a folder with its translation.
"""
