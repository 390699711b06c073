"""The error class of conversion."""


class ConversionError(ValueError):
    """A model cannot be converted; the message names the node or layer and the reason."""
