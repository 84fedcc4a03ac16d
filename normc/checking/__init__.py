"""Checks of a model and a plan by measurement: gains against nominal ones, one step, and sizes over width and depth."""
