"""Vocabularies in the forms that checkpoints have them, as ``tokenizer.json``."""
