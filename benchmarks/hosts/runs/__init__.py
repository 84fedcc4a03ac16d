"""A file a host. Importing it registers its runs."""
