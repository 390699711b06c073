"""How many examples a property gets."""

from hypothesis import settings


def share_of_examples(share: float) -> settings:
    """For the few expensive tests: this share of the profile's examples."""
    return settings(max_examples=max(1, round(settings().max_examples * share)))
