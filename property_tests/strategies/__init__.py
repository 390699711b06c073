"""All strategies: bounded, finite, keyword-only, shrinking to small shapes and to zero.

Hypothesis pays for every choice, so shapes and grids are one choice from a list and the numbers of
a tensor one choice of bytes: a hundred times cheaper than one for each element.

Index, each importing only what is above it:
    examples        how many examples a property gets
    tensors         numbers, shapes and tensors
    grids           specs, and steps on their grids
    weights         weights with ties and rows of zeros
    activations     ranges, and values around their grids
    codes           quantized values whose sums, products and functions are near ties
    calibration     searches, and values of one activation in batches
    operators       layers and products, as qatfunc is called
    modules         QAT modules with numbers that are hard to round
    step_functions  step functions of accumulators
    graphs          graphs that grow by one operator at a time
    networks        whole QDQ networks
"""
