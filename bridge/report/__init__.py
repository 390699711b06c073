"""What results have in common: they print themselves, and they turn into data for JSON.

Index, each importing only what is above it:
    layout   laying out tables for the terminal
    plain    dataclasses as dicts, lists, strings and numbers
    printed  the base class of results
"""
