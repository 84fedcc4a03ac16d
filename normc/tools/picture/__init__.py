"""A plan as a picture: modules as nested boxes, parameters as small matrices; a page of HTML, and an SVG for papers.

May import files, plans, tools.report.
"""
