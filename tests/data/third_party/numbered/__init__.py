"""A third party's system, found through its entry point: pictures that carry the number of their row."""
