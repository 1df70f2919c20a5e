"""Functions that a model may have called: their schemas, the calls in its answers, and running them."""
