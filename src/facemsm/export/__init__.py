"""From PyTorch to ONNX, in 8 bits and in powers of two."""
