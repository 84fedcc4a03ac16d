"""How hosts' own ways to make an optimizer end in `normc.compile`: a thin file a host, none of which normc imports.

May import errors, plans, recipe, optimizer, tools, the pipeline.
"""
