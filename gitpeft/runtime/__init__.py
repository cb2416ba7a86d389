"""Running a model without torch: the confined child process, the tokenizer and the beam search."""
