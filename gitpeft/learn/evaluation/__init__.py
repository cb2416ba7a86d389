"""How good messages and scores are: metrics, intervals, trials on held-out commits, and reranker fitting."""
