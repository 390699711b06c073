"""What tests, property tests, benchmarks and examples share.

Index, each importing only what is above it:
    source          the files of the repository as syntax trees
    fixtures        fixtures of several folders
    bits            equality of every bit
    runtime         ONNX Runtime at every optimization level
    golden          what the reference was recorded to compute
    functions       qatfunc's operators: references, and layers to try
    modules         QAT modules: one of each class, and their numbers
    exporters       torch's two exporters
    networks        whole networks, calibrated
    amct            what the scripts of AMCT's manual leave to their user
    requantization  step functions and sums of two operands to try
    graphs          QDQ models written by hand
    other_tools     QDQ models that other tools wrote
    conversions     converting, and comparing what all models compute
"""
