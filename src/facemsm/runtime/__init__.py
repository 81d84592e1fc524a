"""Trained models: what is in a model folder, how it is written and how ONNX Runtime runs it."""
