"""What people read of a plan: the table, and the reasons behind one row."""
