"""Which form each layer takes.

Index, each importing only what is above it:
    costs  expected times, measured
    forms  the forms, and the fastest by these costs
    tune   the fastest by timing them here
"""
