"""The plan: what is known of every parameter, and what each will get."""
