"""From a trained model to ONNX in int8, and the proof that both answer alike."""
