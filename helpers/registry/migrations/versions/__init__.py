"""The revisions, in order; one that was released never changes."""
