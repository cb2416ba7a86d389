"""From a staged change to suggested messages: retrieval, generation, reranking, conventions and checks."""
