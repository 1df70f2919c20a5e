"""Runs graphs that other tools made: their past grows by concatenation, or they share buffers as ours do."""
