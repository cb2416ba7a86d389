"""LoRA training of Llama-like models on a CPU, fast: see `engine`."""
