"""QDQ models that other tools wrote, as files.

Index:
    make  writing them anew
"""
