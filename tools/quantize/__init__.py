"""Weights in fewer bits: block-wise int8 and int4, classic dynamic int8, rotation, the quality report."""
