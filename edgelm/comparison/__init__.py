"""Prompts, settings, seeds and models side by side: what each writes, and how its answers measure up."""
