"""The one reader of QAT configurations.

Index, each importing only what is above it:
    rules   which configuration goes to which layer: patterns, classes, files
    reader  one configuration, key for key as AMCT writes it
"""
