"""What the reference was recorded to compute.

Index:
    recordings  reading them, as pytest parameters
    make        choosing those that lie in this folder
"""
