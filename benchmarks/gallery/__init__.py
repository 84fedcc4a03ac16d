"""Plans of models in whose threads users found wrong blocks, axes or routing; writes the pages of docs/gallery."""
