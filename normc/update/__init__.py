"""The update side: plain update ops, the stages that chain them, programs of them, and their printed source."""
