"""An answer with all that it depends on, in a file, and whether it comes out the same again."""
