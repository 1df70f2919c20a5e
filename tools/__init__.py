"""Turns checkpoints into bundles. Needs the extra ``edgelm[tools]``; no torch."""
