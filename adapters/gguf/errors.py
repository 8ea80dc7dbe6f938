class UnsupportedGGUFError(ValueError):
    """The file asks for something this converter does not do; the message names it."""


class InexactGGUFError(ValueError):
    """A tensor read back from the converted file is not the one in the source."""
