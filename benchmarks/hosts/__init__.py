"""Runs of normc inside training stacks, each beside the plain loop; docs/hosts.md's table."""
