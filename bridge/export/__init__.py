"""From a QDQ model to a fake-quant and a deploy model, and the proof that they agree.

Index, each importing only what is above it:
    graph           reading and writing graphs with onnx_ir
    files           loading, checking and writing files
    read            QDQ graph -> records of quantized layers and products
    geometry        equivalent forms of convolutions and pools, in numpy
    normalize       a file -> the one form of QDQ graph that read expects
    running         running models on this machine
    passes          graph -> graph
    requantization  what is proven: equal step functions of the sums
    lower           layers as numbers -> nodes
    plan            which form each layer takes
    fast            mode "fast": rounding what integer operators read
    targets         one class a target
    result          what was done, and verifying it
    pipeline        one model -> two, in memory
    convert         convert_qat_model: one file -> two
    public          the names of these that `bridge` has, imported at their first use
"""
