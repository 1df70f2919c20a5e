"""Looking into a model at work: what its layers attend to."""
