"""Choosing the nodes that a layer is lowered to: its form.

Index, each importing only what is above it:
    costs  a cost model, fitted to measured times
    forms  the forms that are possible, and the fastest by the cost model
    tune   the fastest by timing them on this machine
"""
