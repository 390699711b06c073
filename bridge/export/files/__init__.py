"""Loading, checking and writing files.

Index, each importing only what is above it:
    validity       checks that a file is a valid model
    loading        a file and its external data -> model
    training_mode  refuses exports in training mode
    destinations   paths of the written files, none of them a file of the source
    replacement    moves files to their destinations, all or none
    writing        models -> files
"""
