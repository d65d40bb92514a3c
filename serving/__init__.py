"""The inference server: bundles behind the Open Inference Protocol. Needs neither torch nor transformers."""
