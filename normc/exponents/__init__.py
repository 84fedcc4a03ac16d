"""How a layer's initial size, multiplier, learning rate and epsilon follow the size of a model: exponents and factors.

`widths` solves for the largest stable learning rates of a parameterisation; `depths` has CompleteP and u-muP.
"""
