"""What a recipe chains. Stages are typed: a gradient lives in the dual space, a step in that of the weights."""
