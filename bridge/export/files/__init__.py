"""Loading, checking and writing files.

Index, each importing only what is above it:
    validity       whether a file is a valid model
    loading        a file and its external data -> model
    training_mode  refusing exports in training mode
    destinations   which files are written, and never over the source
    replacement    moving files to their destinations, all or none
    writing        models -> files
"""
