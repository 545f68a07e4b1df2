"""Which digit is in an 8 x 8 picture: scikit-learn's digits, as an ONNX model."""
