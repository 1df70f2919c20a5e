"""Folders made by other tools, a file a layout: recognised, and read into the manifest that a bundle would have."""
