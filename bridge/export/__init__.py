"""From torch to ONNX: export of the layers, reading, conversion and verification."""
