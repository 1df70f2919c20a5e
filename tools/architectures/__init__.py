"""One file a model family: configuration and checkpoint in, graph out."""
