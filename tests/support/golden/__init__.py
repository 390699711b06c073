"""What the reference was recorded to compute.

Index:
    recordings  reading them, as pytest parameters
"""
