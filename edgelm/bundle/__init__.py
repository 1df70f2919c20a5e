"""Reads and checks bundles, and keeps the store of them."""
