"""One task a file: what is asked becomes what the model takes, and what the model gives becomes the answer."""
