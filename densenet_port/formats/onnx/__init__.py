"""ONNX models, without onnx."""
