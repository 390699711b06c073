"""How many examples a property gets, as a share of what the profile gives the others."""

from hypothesis import settings


def share(divisor: int) -> settings:
    """Return settings for a property whose examples cost more, or whose law has a wider twin."""
    return settings(max_examples=settings().max_examples // divisor)
