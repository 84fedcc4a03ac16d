"""Models of other libraries, small and with random settings: a file a library, each with a table of builders."""
