"""Tensors of each architecture, their names in MLX, and the model's `config.json`.

    row.py     one architecture, and what several of them share
    table.py   all of them by name, and what a conversion asks of one
    ...        a file for each family, with its rows

A new architecture is a row of its family's file. Keys and tensors of a GGUF that its row does not
have are rejected by name: a model without one of its parts still generates text, but bad text.

Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (keys and tensor names)
"""
