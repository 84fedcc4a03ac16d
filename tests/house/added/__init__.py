"""Parts as a user adds them, a file each: nothing else of normc knows them."""
