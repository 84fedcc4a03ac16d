"""Norms, one file each: its linear minimisation oracle, its measure and its dual. Importing a file registers it."""
