"""Every architecture of transformers and timm through `normc.plan`, and an independent judge of each row."""
