"""Running a model without torch: the sandboxed child process, ONNX sessions, tokenizer and beam search."""
