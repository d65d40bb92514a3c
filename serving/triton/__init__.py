"""Model repositories for NVIDIA Triton's ONNX Runtime backend: made of bundles, and checked."""
