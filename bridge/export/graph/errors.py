"""The one error class of the conversion."""


class ConversionError(ValueError):
    """A model cannot be converted; the message names the node or layer and says why."""
